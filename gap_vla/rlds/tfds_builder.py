"""The TFDS builders: every dataset is written by one, the class in `rlds_builders/<name>` or, without one, the base.

`tfds build`, `gap-vla build-dataset` and the main job all call `DemosBuilder.convert`.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from gap_vla.core.errors import naming_the_line
from gap_vla.core.foreign import finite, one_line
from gap_vla.demos import open_source
from gap_vla.demos.source import Source, check_options
from gap_vla.rlds.account import dataset_metadata
from gap_vla.rlds.convert import build_dataset, dry_run
from gap_vla.rlds.shards import BeamRunner
from gap_vla.rlds.target import DESCRIPTION, check_names
from gap_vla.rlds.version_files import BUILDERS, DatasetError, open_version

SOURCE_VARIABLE = "GAP_VLA_SOURCE"

_TFDS_BUILD = "tensorflow_datasets.scripts.cli.build"

_BESIDE = (".mp4", ".png", ".annotator")
"""What `collect-demos` and `annotate` leave beside demonstrations."""


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Not asked for over the network: these datasets are made from files on this machine."""


_OWN = {"READER_OPTIONS", "METHOD", "SEED", "OPTIONS", "VAL_FRACTION"}
"""What a builder class may settle beside its kind."""


class DemosBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder of one set of demonstrations.

    The demonstrations are taken from the first of: the environment variable `GAP_VLA_SOURCE`, the class attribute
    `SOURCE`; or, where neither is set, `<manual_dir>/<name>` or the only file or folder in `manual_dir` (`tfds build
    --manual_dir`).

    Attributes:
        KIND: reader name (`gap_vla.demos.READERS`).
        SOURCE: path of the demonstrations.
        READER_OPTIONS: of the reader.
        METHOD, SEED, OPTIONS: of `gap_vla.phases.annotate`; METHOD `"none"` writes no ρ. With another method, or an
            annotator, seed and options are not taken from here.
        VAL_FRACTION: share of episodes in the split `val`.
        HINT: what an error about missing demonstrations tells the user to run.
    """

    VERSION = tfds.core.Version("1.0.0")
    KIND: ClassVar[str] = "robomimic_hdf5"
    SOURCE: ClassVar[str | None] = None
    READER_OPTIONS: ClassVar[dict[str, Any]] = {}
    METHOD: ClassVar[str] = "lstm"
    SEED: ClassVar[int] = 0
    OPTIONS: ClassVar[dict[str, Any]] = {}
    VAL_FRACTION: ClassVar[float] = 0.1
    HINT: ClassVar[str] = ""

    def _info(self) -> tfds.core.DatasetInfo:
        # Shapes are those of the demonstrations: before they are converted there is nothing to state.
        known = (self.data_path / "features.json").exists()
        return _LocalInfo(
            builder=self,
            description=f"{self.name}: demonstrations in RLDS with the motion-transition probability rho per step.",
            features=open_version(self.data_path, shards=False).info.features if known else None,
        )

    def convert(self, source: Source | str | Path, *, reader: Mapping[str, Any] | None = None, **settings: Any) -> Path:
        """`gap_vla.rlds.build_dataset` for this builder's dataset, whose `dataset_info.json` names the class's module
        and holds its docstring.

        Args:
            source: `gap_vla.demos.open_source(...)`, or a path of this builder's KIND.
            reader: options of the reader, on top of READER_OPTIONS; for a path.
            **settings: of `build_dataset`, on top of the class's attributes; `options` on top of OPTIONS, if the method
                is the class's own, unless they are `{}` or an `identity` is given, too.

        Raises:
            DatasetError: options of the reader for a source that is open, or as `build_dataset`.
        """
        demos = self.open(source, reader)
        about = f"{self.name}: {inspect.getdoc(type(self))}" if type(self).__doc__ else DESCRIPTION
        writer: dict[str, Any] = {"version": str(self.version), "module": type(self).__module__, "description": about}
        return build_dataset(demos, self._data_dir_root, self.name, **writer, **self._settings(settings))

    def open(self, source: Source | str | Path, reader: Mapping[str, Any] | None = None) -> Source:
        """The demonstrations as `convert` reads them."""
        if isinstance(source, Source):
            if reader:
                raise DatasetError(f"reader has no effect on {source.path}, which is open; give it to open_source")
            return source
        options = {**self.READER_OPTIONS, **(reader or {})}
        check_options(self.KIND, options)  # `path` and `kind` are no options
        return open_source(source, self.KIND, **options)

    def dry_run(
        self, source: Source | str | Path, picture: Path, *, reader: Mapping[str, Any] | None = None, **settings: Any
    ) -> str:
        """What `convert` would write, as text, and the first episode with ρ as a picture; see `convert.dry_run`."""
        return dry_run(self.open(source, reader), picture, **self._settings(settings))

    def _settings(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What is said, and the class's own where nothing is; its seed and options are those of its method."""
        own: dict[str, Any] = {"val_fraction": self.VAL_FRACTION}
        if said.get("annotator") is None:
            own["method"] = self.METHOD
            if said.get("method", self.METHOD) == self.METHOD:
                own |= {"seed": self.SEED, "options": self.OPTIONS}
                if said.get("options") and said.get("identity") is None:  # the main job states all of its options
                    said = {**said, "options": {**self.OPTIONS, **dict(said["options"])}}
        return {**own, **said}

    def is_prepared(self) -> bool:
        """Whether the dataset is there. `tfds build --overwrite` is told that it is not, for it would remove it at
        once; `convert` replaces it when the new one is whole."""
        asked = (caller.frame for caller in inspect.stack(0))
        removes = any(f.f_globals.get("__name__") == _TFDS_BUILD and f.f_locals.get("overwrite") for f in asked)
        return not removes and bool(super().is_prepared())

    def download_and_prepare(
        self,
        *,
        download_dir: Any = None,
        download_config: tfds.download.DownloadConfig | None = None,
        file_format: Any = None,
    ) -> None:
        """What `tfds build` calls: converts the demonstrations, or leaves an identical finished dataset as it is.
        Nothing is downloaded into `download_dir`."""
        config, usual = download_config or tfds.download.DownloadConfig(), tfds.download.DownloadConfig()
        used = {"extract_dir", "manual_dir", "download_mode", "beam_runner", "beam_options"}
        odd = [name for name, value in vars(usual).items() if name not in used and getattr(config, name) != value]
        formats = {self.info.file_format, file_format} - {None, "tfrecord", tfds.core.FileFormat.TFRECORD}
        odd += ["file_format"] if formats else []
        odd += ["update_metadata_only"] if config.download_mode == tfds.GenerateMode.UPDATE_DATASET_INFO else []
        odd += ["BUILDER_CONFIGS"] if self.builder_config else []
        if odd:
            raise DatasetError(f"{self.name}: {odd[0]} has no effect on what is written here; leave it out")
        options: dict[str, Any] = {"overwrite": config.download_mode.overwrite_dataset}
        if config.beam_options is not None or config.beam_runner is not None:
            options["runner"] = BeamRunner(config.beam_options, config.beam_runner)
        self.convert(self._source(config.manual_dir), **options)
        self.info._features = None  # those of the dataset that was replaced
        self.info.read_from_directory(self.data_dir)

    def _source(self, manual_dir: Any) -> Path:
        said = {SOURCE_VARIABLE: os.environ.get(SOURCE_VARIABLE) or None, "SOURCE of its class": self.SOURCE}
        for name, path in said.items():
            if path is not None:
                if manual_dir is not None:
                    raise DatasetError(f"{self.name}: --manual_dir has no effect beside {name}, {path}; leave one out")
                return Path(path)
        if manual_dir is not None:
            folder = Path(manual_dir)
            found = folder.iterdir() if folder.is_dir() else ()
            every = [p for p in found if not p.name.startswith(".") and p.suffix not in _BESIDE]
            named = [p for p in every if p.stem == self.name]
            for candidates in (named, every):
                if len(candidates) == 1:
                    return candidates[0]
        hint = f"\n{self.HINT}" if self.HINT else ""
        raise DatasetError(
            f"{self.name}: no demonstrations; set {SOURCE_VARIABLE}=/path/to/them, or give --manual_dir with a file "
            f"or folder named {self.name}{hint}"
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        raise NotImplementedError("download_and_prepare does the whole work")

    def _as_dataset(self, split: Any, **options: Any) -> Any:
        return tfds.builder_from_directory(str(self.data_dir))._as_dataset(split, **options)


def dataset_builder(
    name: str, data_dir: str | Path, *, kind: str | None = None, version: str | None = None
) -> DemosBuilder:
    """The builder that writes `data_dir/name/version`.

    It is the class in `rlds_builders/<name>` beside this package (a checkout, or an editable installation), if there
    is one and it reads this kind; otherwise the base builder under that name, as for data without a folder of
    their own and for an installed package, which has no `rlds_builders`.

    Args:
        name: dataset name; for the demonstrations of a simulated task, the task's.
        data_dir: TFDS data directory.
        kind, version: what the demonstrations are (`gap_vla.demos.READERS`), and the dataset's; default: the class's.

    Raises:
        DatasetError: the folder's file is called otherwise, or defines no builder of its name; the name is not an
            identifier; or the kind is `rlds`: a dataset that is there already gets ρ from `gap_vla.rlds.annotating`.
    """
    if kind == "rlds":
        raise DatasetError(
            "ρ is added to an RLDS dataset by: gap-vla annotate SOURCE --out DATA_DIR/NAME/VERSION "
            "--state observation/state --layout bridge (the field with the state, and what its columns are)"
        )
    check_names(name, str(DemosBuilder.VERSION if version is None else version))
    found = _class_in_folder(name)
    if found is None or kind not in (None, found.KIND):
        if found is not None and _OWN & {key for c in found.__mro__ if c is not DemosBuilder for key in vars(c)}:
            print(
                f"note: rlds_builders/{name} reads {found.KIND}; its settings do not hold for kind {kind}", flush=True
            )
        base = DemosBuilder
        found = _derived(base, name, version or str(base.VERSION), KIND=kind or base.KIND, __doc__=None)
    elif version not in (None, str(found.VERSION)):
        found = _derived(found, name, str(version), __doc__=found.__doc__)
    version_dir = Path(data_dir) / name / str(found.VERSION)
    if version_dir.exists() and any(version_dir.iterdir()) and not dataset_metadata(version_dir).get("identity"):
        raise DatasetError(f"{version_dir} exists and was not written by gap_vla; choose another name or version")
    return found(data_dir=str(data_dir))


@functools.cache  # TFDS refuses a second class of the same name
def _class_in_folder(name: str) -> type[DemosBuilder] | None:
    path = BUILDERS / name / f"{name}_dataset_builder.py"
    if not path.exists():
        if others := sorted(path.parent.glob("*_dataset_builder.py")):
            raise DatasetError(f"{others[0]} would be passed over; call it {path.name}, and its class after it")
        return None
    module_name = f"rlds_builders.{name}.{path.stem}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            with naming_the_line(str(path), DatasetError):
                spec.loader.exec_module(sys.modules[module_name])
        except BaseException:
            del sys.modules[module_name]
            raise
    for value in vars(sys.modules[module_name]).values():
        if isinstance(value, type) and issubclass(value, DemosBuilder) and value.name == name:
            for key in ("READER_OPTIONS", "OPTIONS"):
                if not isinstance(found := getattr(value, key), Mapping):
                    raise DatasetError(f"{path}: {key} is {one_line(found, 60)}; it must be a dictionary")
            for key in (key for key in vars(value) if key.isupper() and not hasattr(DemosBuilder, key)):
                if near := difflib.get_close_matches(key, filter(str.isupper, vars(DemosBuilder)), 1, 0.85):
                    raise DatasetError(f"{path}: {key} is no setting of a builder; did you mean {near[0]}?")
            finite(f"{path}: VAL_FRACTION", value.VAL_FRACTION, 0, 1, DatasetError)
            check_names(name, str(value.VERSION))
            return value
    raise DatasetError(f"{path}: defines no subclass of DemosBuilder whose name is {name}")


def _derived(base: type[DemosBuilder], name: str, version: str, **attributes: Any) -> type[DemosBuilder]:
    body = {"name": name, "VERSION": tfds.core.Version(version), "__module__": base.__module__, **attributes}
    return types.new_class(base.__name__, (base,), {"skip_registration": True}, lambda scope: scope.update(body))
