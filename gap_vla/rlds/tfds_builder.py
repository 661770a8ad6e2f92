"""The base of TFDS builder classes such as those in `rlds_builders/`: `tfds build` converts demonstrations with it."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from gap_vla.core.errors import UserError
from gap_vla.demos.fields import Fields
from gap_vla.demos.source import open_source
from gap_vla.rlds.convert import build_dataset
from gap_vla.rlds.shards import run_on_beam

SOURCE_VARIABLE = "GAP_VLA_SOURCE"


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Not asked for over the network: these datasets are made from files on this machine."""


class DemosBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder of one set of demonstrations.

    The demonstrations are what the environment variable `GAP_VLA_SOURCE` names, or `<manual_dir>/<name>`, or the only
    file or folder in `manual_dir` (`tfds build --manual_dir`).

    Attributes:
        KIND: reader name (`gap_vla.demos.source.READERS`); None: what the files look like.
        FIELDS: what is where in them.
        OPTIONS: of `build_dataset`, such as `{"method": "none"}`, which writes no ρ.
        HINT: what an error about missing demonstrations tells the user to run.
    """

    VERSION = tfds.core.Version("1.0.0")
    KIND: ClassVar[str | None] = None
    FIELDS: ClassVar[Fields] = Fields()
    OPTIONS: ClassVar[dict[str, Any]] = {}
    HINT: ClassVar[str] = ""

    def _info(self) -> tfds.core.DatasetInfo:
        # Shapes are those of the demonstrations: before they are converted there is nothing to state.
        known = (self.data_path / "features.json").exists()
        return _LocalInfo(
            builder=self,
            description=f"{self.name}: demonstrations in RLDS with the motion-transition probability rho per step.",
            features=tfds.features.FeaturesDict.from_config(str(self.data_path)) if known else None,
        )

    def download_and_prepare(
        self,
        *,
        download_dir: Any = None,
        download_config: tfds.download.DownloadConfig | None = None,
        file_format: Any = None,
    ) -> None:
        """What `tfds build` calls: converts the demonstrations, or leaves an identical finished dataset as it is."""
        config = download_config or tfds.download.DownloadConfig()
        how = {"options": config.beam_options, "runner": config.beam_runner}
        build_dataset(
            open_source(self._source(config.manual_dir), self.FIELDS, self.KIND),
            self._data_dir_root,
            self.name,
            version=str(self.version),
            overwrite=config.download_mode.overwrite_dataset,
            runner=functools.partial(run_on_beam, **how) if any(how.values()) else None,
            **self.OPTIONS,
        )
        self.info._features = None  # those of the dataset that was replaced
        self.info.read_from_directory(self.data_dir)

    def _source(self, manual_dir: Any) -> Path:
        if named := os.environ.get(SOURCE_VARIABLE):
            return Path(named)
        found = [path for path in Path(manual_dir).iterdir() if path.name[0] != "."] if manual_dir else []
        for candidates in ([path for path in found if path.stem == self.name], found):
            if len(candidates) == 1:
                return candidates[0]
        how = f"set {SOURCE_VARIABLE}=/path/to/them, or give --manual_dir with a file or folder named {self.name}"
        raise UserError(f"{self.name}: no demonstrations; {how}\n{self.HINT}")

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Not called: `download_and_prepare` does the whole work."""

    def _as_dataset(self, split: Any, **options: Any) -> Any:
        return tfds.builder_from_directory(str(self.data_dir))._as_dataset(split, **options)
