"""Base of the builders in `rlds_builders/`: `tfds build` runs the same conversion as `scripts/build_dataset.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from gap_vla.demos import open_source
from gap_vla.rlds.annotated import annotate_rlds
from gap_vla.rlds.convert import build_dataset
from gap_vla.rlds.shards import DatasetError

SOURCE_VARIABLE = "GAP_VLA_SOURCE"


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Not asked for over the network: these datasets are made from files on this machine."""


class DemosBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder of one set of demonstrations.

    The demonstrations are taken from the first of: the environment variable `GAP_VLA_SOURCE`, the class attribute
    `SOURCE`, `<manual_dir>/<name>` or the only file or folder in `manual_dir` (`tfds build --manual_dir`).

    Attributes:
        KIND: reader name (`gap_vla.demos.READERS`).
        SOURCE: path of the demonstrations.
        READER_OPTIONS: of the reader.
        METHOD, SEED, OPTIONS: of `gap_vla.phases.annotate`; METHOD `"none"` writes no ρ.
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
            features=tfds.features.FeaturesDict.from_config(self.data_dir) if known else None,
        )

    def download_and_prepare(
        self,
        *,
        download_dir: Any = None,
        download_config: tfds.download.DownloadConfig | None = None,
        **_: Any,
    ) -> None:
        """Converts the demonstrations, or leaves an identical finished dataset as it is."""
        config = download_config or tfds.download.DownloadConfig()
        self._convert(self._source(config.manual_dir), config)
        self.info.read_from_directory(self.data_dir)

    def _convert(self, source: Path, config: tfds.download.DownloadConfig) -> None:
        options: dict[str, Any] = {}
        if config.beam_options is not None or config.beam_runner is not None:
            from gap_vla.rlds.beam import BeamRunner

            options["runner"] = BeamRunner(config.beam_options, config.beam_runner)
        build_dataset(
            open_source(source, self.KIND, **self.READER_OPTIONS),
            self._data_dir_root,
            self.name,
            version=str(self.version),
            method=self.METHOD,
            seed=self.SEED,
            options=self.OPTIONS,
            val_fraction=self.VAL_FRACTION,
            overwrite=config.download_mode.overwrite_dataset,
            **options,
        )

    def _source(self, manual_dir: Any) -> Path:
        if SOURCE_VARIABLE in os.environ:
            return Path(os.environ[SOURCE_VARIABLE])
        if self.SOURCE is not None:
            return Path(self.SOURCE)
        if manual_dir is not None:
            folder = Path(manual_dir)
            named = [p for p in folder.glob(f"{self.name}*") if p.stem == self.name]
            every = [p for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
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


class AnnotatedRldsBuilder(DemosBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder of an existing RLDS dataset with ρ; the source is its version directory.

    Attributes:
        STATE_KEY: step field with the end effector's pose, see `gap_vla.rlds.annotate_rlds`.
        LAYOUT: its columns, a name of `gap_vla.demos.layout.LAYOUTS` or its attributes.
    """

    STATE_KEY: ClassVar[str] = "observation/state"
    LAYOUT: ClassVar[str | dict[str, Any]] = "bridge"

    def _convert(self, source: Path, config: tfds.download.DownloadConfig) -> None:
        annotate_rlds(
            source,
            self._data_dir_root,
            self.name,
            state_key=self.STATE_KEY,
            layout=self.LAYOUT,
            version=str(self.version),
            method=self.METHOD,
            seed=self.SEED,
            options=self.OPTIONS,
            overwrite=config.download_mode.overwrite_dataset,
        )
