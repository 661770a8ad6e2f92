"""The place where a dataset comes into being: locked, resumable, and renamed to its final name when it is complete."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.identity import differences, digest
from gap_vla.core.locks import alone
from gap_vla.core.outputs import claim, stamp
from gap_vla.core.whole import put, write_json
from gap_vla.rlds.reader import dataset_metadata
from gap_vla.rlds.version_files import DatasetError, read_back

DESCRIPTION = "Robot demonstrations in RLDS with the motion-transition probability rho per step."
MODULE = "gap_vla.rlds"
"""What a dataset says of its origin if it was not written by a TFDS builder class."""

VERSION = re.compile(r"\d+\.\d+\.\d+")

_MARK = "settings.json"


def check_names(name: str, version: str) -> None:
    """Raises DatasetError for what is no name or no version of a dataset."""
    if not name.isidentifier():
        raise DatasetError(f"dataset name {name!r}: use letters, digits and underscores")
    if not VERSION.fullmatch(version):
        raise DatasetError(f"dataset version {version!r}: give three numbers, such as 1.0.0")


class DatasetTarget:
    """`data_dir/name/version`, written as `data_dir/name/.version.partial` until `finish`.

    Args:
        data_dir: TFDS data directory.
        name: dataset name.
        version: `major.minor.patch`.
        settings: everything that the dataset depends on; JSON-able.
        overwrite: replace an existing, different dataset.

    Attributes:
        path: the final version directory.
        partial: the unfinished one; it keeps finished shards of an interrupted run with the same settings.
        reused: whether the dataset is there already, made with the same settings: nothing is left to do.

    Raises:
        DatasetError: bad name, another writer is at work, or a different dataset is in the way (says what differs).
    """

    def __init__(
        self, data_dir: str | Path, name: str, version: str, settings: Mapping[str, Any], overwrite: bool = False
    ) -> None:
        check_names(name, version)
        self._home = Path(data_dir) / name
        self.name, self.version = name, version
        self.settings = json.loads(json.dumps(settings, default=str))
        self.path = self._home / version
        self.partial = self._home / f".{version}.partial"
        self.reused = False
        self._overwrite = overwrite

    @contextlib.contextmanager
    def held(self) -> Iterator[DatasetTarget]:
        """Itself, for this process alone, ready to be written into (or `reused`)."""
        self._home.mkdir(parents=True, exist_ok=True)
        with alone(self._home / f".{self.version}.lock", f"{self._home}"):
            self._prepare()
            yield self

    def _prepare(self) -> None:
        if self.path.exists():
            recorded = dataset_metadata(self.path)
            self.reused = recorded.get("identity_hash") == digest(self.settings, 16)
            if self.reused:
                return
            if not self._overwrite:
                raise DatasetError(self._in_the_way(recorded))
        claim(self.path, "dataset")
        mark = self.partial / _MARK
        described = json.dumps(self.settings, indent=2) + "\n"
        if self.partial.exists() and not (mark.exists() and mark.read_text() == described):
            shutil.rmtree(self.partial)
        self.partial.mkdir(exist_ok=True)
        write_json(mark, self.settings)

    def _in_the_way(self, recorded: Mapping[str, Any]) -> str:
        if not recorded.get("identity"):
            return f"{self.path} exists and was not written by gap_vla; choose another name or version"
        differing = differences(recorded["identity"], self.settings)
        lines = "\n  ".join(f"{name}: {found} → {wanted}" for name, (found, wanted) in sorted(differing.items()))
        return (
            f"{self.path} exists and was made differently:\n  {lines}\nchoose another name or version, or overwrite it"
        )

    def write_info(
        self,
        features: Any,
        shard_lengths: Mapping[str, Sequence[int]],
        shard_bytes: Sequence[int],
        *,
        module: str = MODULE,
        description: str = DESCRIPTION,
    ) -> None:
        """Writes TFDS' `dataset_info.json` and `features.json`; bytes are per shard, split after split.

        `module` and `description` are those of the builder class that writes the dataset.
        """
        import tensorflow_datasets as tfds

        remaining = iter(shard_bytes)
        splits = [
            tfds.core.SplitInfo(name=split, shard_lengths=list(counts), num_bytes=sum(next(remaining) for _ in counts))
            for split, counts in shard_lengths.items()
        ]
        version, home = tfds.core.Version(self.version), str(self.partial)
        identity = tfds.core.dataset_info.DatasetIdentity(self.name, version, home, module_name=module)
        info = tfds.core.DatasetInfo(builder=identity, description=description, features=features)
        info.set_file_format("tfrecord")
        info.set_splits(tfds.core.splits.SplitDict(splits))
        info.write_to_directory(str(self.partial))

    def write_metadata(self, annotator: Mapping[str, Any], **more: Any) -> None:
        """Writes `metadata.json`: identity, its hash, the annotator, and more."""
        metadata = {
            "identity": self.settings,
            "identity_hash": digest(self.settings, 16),
            "annotator": json.loads(json.dumps(annotator, default=str)),
            **more,
        }
        write_json(self.partial / "metadata.json", metadata)

    def finish(self) -> Path:
        """Reads the dataset back and gives it its final name.

        Raises:
            EpisodeError: it did not arrive whole on the disk.
        """
        read_back(self.partial)
        (self.partial / _MARK).unlink()
        stamp(self.partial, "dataset")
        claim(self.path, "dataset", overwrite=self._overwrite)
        put(self.partial, self.path)
        shutil.rmtree(self.partial, ignore_errors=True)  # the old one, after the exchange
        return self.path
