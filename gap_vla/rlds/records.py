"""One dataset version as TFDS writes it: its description, and its records by number.

TFDS describes and parses; the bytes of one record are found by the lengths that stand before each, so that an episode
in the middle of a shard is read without those before it. TensorFlow is imported on first use.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import read_json
from gap_vla.core.identity import flat

DESCRIPTION = ("dataset_info.json", "features.json", "metadata.json")


def dataset_metadata(version_dir: str | Path) -> dict[str, Any]:
    """What a dataset of gap_vla says of itself: `identity`, `identity_hash`, `annotator`, `columns`; of others {}."""
    path = Path(version_dir) / "metadata.json"
    metadata = read_json(path) if path.exists() else {}
    ours = isinstance(metadata, dict) and ("identity_hash" in metadata or "labelled_from" in metadata)
    return metadata if ours else {}


def dataset_hash(version_dir: str | Path) -> str:
    """Identifies a dataset by its description: features, records and bytes of each split, what it was made from.

    Its records are not read. Delete what was made of a dataset (its store) after editing records by hand.
    """
    require_version(Path(version_dir))
    total = hashlib.sha256()
    for path in (Path(version_dir) / name for name in DESCRIPTION):
        total.update(path.name.encode() + (path.read_bytes() if path.exists() else b""))
    return total.hexdigest()[:16]


def require_version(version_dir: Path) -> None:
    """Raises EpisodeError: the folder is not that of one finished dataset version."""
    for needed in DESCRIPTION[:2]:
        if not (version_dir / needed).exists():
            raise EpisodeError(f"{version_dir}: no {needed}; give a dataset version, such as data/threading/1.0.0")


class Version:
    """A dataset version on disk.

    Attributes:
        path: its folder, e.g. `data/threading/1.0.0`.
        info: `tfds.core.DatasetInfo`.
        steps: field of a step (`observation/state`) to its TFDS feature.
        stored: every field of a record (`steps/action`, `episode_metadata/success`) to how it is stored.
        counts: split to its number of episodes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        require_version(self.path)
        _require_tfds_features(self.path / "features.json")
        import tensorflow_datasets as tfds

        self.info = tfds.builder_from_directory(str(self.path)).info
        steps = dict(self.info.features.items()).get("steps")
        if not isinstance(steps, tfds.features.Dataset):
            raise EpisodeError(f"{self.path}: no Dataset 'steps' among the features; this is not RLDS")
        self.steps: dict[str, Any] = dict(sorted(flat(steps.feature, separator="/")))
        self.counts: dict[str, int] = {name: split.num_examples for name, split in self.info.splits.items()}
        self.stored: dict[str, Any] = dict(flat(self.info.features.get_serialized_info(), separator="/"))

    def shards(self, split: str) -> list[tuple[Path, int]]:
        """The files of a split, each with its number of episodes."""
        described = self.info.splits[split]
        return [(Path(str(file)), count) for file, count in zip(described.filepaths, described.shard_lengths)]

    def episode(self, split: str, index: int) -> dict[str, Any]:
        """The `stored` fields of one episode, those of steps stacked; what the record lacks is left out.

        Pictures stay encoded (`decode_pictures`).
        """
        from tensorflow_datasets.core.example_parser import ExampleParserNp

        found = dict(flat(ExampleParserNp(self.stored).parse_example(self._record(split, index)), separator="/"))
        for path in found:
            feature: Any = self.steps.get(path.removeprefix("steps/"))
            packed = np.dtype(self.stored[path].np_dtype).kind == "O"  # as bytes, or by zlib
            if packed and type(feature).__name__ == "Tensor":
                found[path] = np.stack([feature.decode_example_np(row) for row in found[path]])
        return found

    def _record(self, split: str, index: int) -> bytes:
        shards = self.shards(split)
        ends = np.cumsum([count for _, count in shards])
        number = int(np.searchsorted(ends, index, side="right"))
        file, count = shards[number]
        return self._records(file, count)[index - int(ends[number]) + count]

    @functools.lru_cache(maxsize=4)  # noqa: B019  a version lives as long as its reader
    def _records(self, file: Path, count: int) -> Records:
        records = Records(file)
        if len(records) != count:
            raise EpisodeError(f"{file} holds {len(records)} records, not {count}; copy the file again")
        return records


class Records:
    """The records of one TFRecord file, by number."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._places: list[int] = []
        place, size = 0, file.stat().st_size
        with open(file, "rb") as stream:
            while place < size:
                self._places.append(place)
                stream.seek(place)
                # length (8 bytes), its checksum (4), the record, its checksum (4)
                place += 16 + int.from_bytes(stream.read(8), "little")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> bytes:
        """One record. Raises EpisodeError: its checksum differs, or it is cut off."""
        import tensorflow as tf

        try:
            return self._reader.read(self._places[index])[0]  # type: ignore[no-any-return]
        except tf.errors.DataLossError:
            raise EpisodeError(f"{self.file}, record {index} is damaged; copy the file again") from None

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    @functools.cached_property
    def _reader(self) -> Any:
        from tensorflow.python.lib.io.tf_record import tf_record_random_reader

        return tf_record_random_reader(str(self.file))


def is_picture(feature: Any) -> bool:
    """Whether a field of steps is pictures in colour."""
    return type(feature).__name__ == "Image" and feature.shape[-1] == 3 and feature.np_dtype == np.uint8


def decode_pictures(encoded: Iterable[bytes], size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8[T, h, w, 3] from PNG or JPEG; resized to (height, width) by Lanczos with antialiasing, as upstream does."""
    import tensorflow as tf

    frames = np.stack([tf.io.decode_image(one, channels=3, expand_animations=False).numpy() for one in encoded])
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    small = tf.image.resize(frames, size, method="lanczos3", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8).numpy()  # type: ignore[no-any-return]


def _require_tfds_features(file: Path) -> None:
    """Raises EpisodeError: TFDS would import a feature's module that is none of its own."""
    for name in _class_names(read_json(file)):
        if not name.startswith("tensorflow_datasets."):
            raise EpisodeError(f"{file}: a feature of class {name!r:.80}; only those of tensorflow_datasets are read")


def _class_names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, part in value.items() if isinstance(value, dict) else ():
        if key in ("pythonClassName", "python_class_name", "type") and isinstance(part, str):
            yield part
        yield from _class_names(part)
