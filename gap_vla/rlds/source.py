"""Any RLDS dataset, as TFDS describes it, as a `Source` of episodes; and a copy of it with labels.

TFDS describes and parses; the bytes of one record are found by the lengths that stand before each, so that an episode
in the middle of a shard is read without those before it. TensorFlow is imported on first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.columns import DELTA, POSE, Columns
from gap_vla.core.episode import LABELS
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, read_json, replacing, write_json
from gap_vla.core.identity import flat
from gap_vla.demos.arrays import as_text
from gap_vla.demos.fields import Fields, explicit
from gap_vla.demos.source import Arrays, Labels, Place, Recording, Source

DESCRIPTION = ("dataset_info.json", "features.json", "metadata.json")

INSTRUCTIONS = ("language_instruction", "observation/natural_language_instruction", "observation/language_instruction")
"""Step fields of the instruction; the first one that is not blank counts."""

MISSING = "missing_cameras"
"""Key of an episode's metadata: cameras that it has no pictures of, by the dataset's flags such as `has_image_1`."""


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


@dataclasses.dataclass(frozen=True)
class Record(Place):
    """An episode of a dataset, `number` in its split, `position` in its shard; `file` is the dataset's folder."""

    split: str
    number: int
    shard: Path
    position: int


class RLDS(Source):
    """The episodes of an RLDS dataset, those of one split behind those of another.

    Arrays are step fields by their path, as `observation/state`; what `observation/` holds needs no more than its own
    name. A dataset of ours needs no fields: it says itself what its columns are.

    Args:
        path: the folder of one version, e.g. `data/threading/1.0.0`.
        fields: which step fields are what; `episodes` may name a split. Pictures are resized as upstream does, by
            Lanczos with antialiasing.
    """

    kind = "rlds"
    output = "dataset"
    STATES = ("observation/proprio", "observation/state")
    ACTIONS = ("action",)
    INSIDE = ("observation/",)

    def __init__(self, path: str | Path, fields: Fields | None = None) -> None:
        self.path, self.metadata = Path(path), dataset_metadata(path)
        declared = self.metadata.get("fields", {})  # by which `annotate` read what this is a copy of
        super().__init__(path, Fields(**{**declared, **(explicit(fields) if fields else {})}))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "version"}  # each process opens its own

    @functools.cached_property
    def version(self) -> Version:
        return Version(self.path)

    @property
    def splits(self) -> list[str]:
        """The split of each episode."""
        return [place.split for place in self.places]

    def find(self) -> tuple[list[Record], dict[str, list[str]]]:
        places = []
        filters: dict[str, list[str]] = {}
        for split, shards in self.version.shards.items():
            parts = [(shard, position) for shard, count in shards for position in range(count)]
            filters[split] = [f"{split}[{number}]" for number in range(len(parts))]
            places += [Record(self.path, filters[split][n], split, n, *part) for n, part in enumerate(parts)]
        return places, filters

    @contextlib.contextmanager
    def recording(self, place: Record) -> Iterator[Recording]:
        stored = self.version.episode(place.shard, place.position)
        names = [name for name in self.version.steps if f"steps/{name}" in stored]
        arrays = Arrays(names, functools.partial(self._array, stored))
        about, extra = _about(stored)
        called = {key: as_text(about[key]) for key in ("episode_id", "file_path") if about.get(key)}
        metadata: dict[str, Any] = {**called, **extra}
        cameras = {camera: name.rpartition("/")[2] for camera, name in getattr(self, "cameras", {}).items()}
        if missing := [camera for camera, name in cameras.items() if not about.get(f"has_{name}", True)]:
            metadata[MISSING] = missing
        texts = [arrays[name] for name in INSTRUCTIONS if name in arrays]
        instruction = next((text for text in texts if any(as_text(one).strip() for one in text)), "")
        yield Recording(arrays, instruction, about.get("success", True), metadata)

    def _array(self, stored: Mapping[str, Any], name: str) -> Any:
        """A field of all steps; `steps/` stands before its name in the record."""
        value = stored[f"steps/{name}"]
        return decode_pictures(value, self.fields.image_size) if is_picture(self.version.steps[name]) else value

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        key = {"observation/proprio": "proprio", "action": "action"}.get("+".join(names), "")
        if text := self.metadata.get("columns", {}).get(key):
            return Columns.parse(text)
        if key and "identity" in self.metadata and "columns" not in self.metadata:  # made by 0.2
            arm = DELTA if key == "action" else self._pose_of_0_2()
            return arm.times(sum(widths) // arm.width) if sum(widths) % arm.width == 0 else None
        return None

    def cameras_of(self, first: Recording) -> dict[str, str]:
        return cameras_named([name for name in self.names if is_picture(self.version.steps[name])])

    @property
    def about(self) -> dict[str, Any]:
        made_from = self.metadata.get("identity", {}).get("data", {})
        settings = {**made_from, **made_from.get("demos", {})}
        return {key: settings[key] for key in ("task", "variant", "camera") if key in settings}

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "fields": explicit(self.fields), "content": dataset_hash(self.path)}

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Writes the dataset's version `out`: each record as it is, with `steps/rho` and `steps/change_point`."""
        if len(self) != len(self.find()[0]):
            raise EpisodeError(f"{self.path}: a copy holds all episodes; leave out the selection of episodes")
        shards = {split: [file for file, _ in files] for split, files in self.version.shards.items()}
        rewritten = {file.name for files in shards.values() for file in files}
        with replacing(out) as new:
            new.mkdir()
            for path in self.path.iterdir():
                if path.is_file() and path.name not in rewritten and path.name[0] != ".":
                    shutil.copyfile(path, new / path.name)
            remaining, sizes = iter(labels), {}
            for split, files in shards.items():
                sizes[split] = sum(copy_with(file, new / file.name, remaining) for file in files)
            self._describe(new, out.name, sizes, annotator)
            mark(new, "dataset")

    def _describe(self, new: Path, name: str, sizes: Mapping[str, int], annotator: Mapping[str, Any]) -> None:
        import tensorflow_datasets as tfds

        features = tfds.features.FeaturesDict.from_config(str(self.path))
        inner = dict(features["steps"].feature.items())
        inner |= {"rho": tfds.features.Scalar(np.float32), "change_point": tfds.features.Scalar(np.bool_)}
        outer = {key: value for key, value in features.items() if key != "steps"}
        tfds.features.FeaturesDict({**outer, "steps": tfds.features.Dataset(inner)}).save_config(str(new))
        info = json.loads((self.path / "dataset_info.json").read_text())
        for entry in info["splits"]:
            entry["numBytes"] = str(sizes[entry["name"]])
        info["version"] = name
        (new / "dataset_info.json").write_text(json.dumps(info, indent=2, sort_keys=True))
        metadata = {key: value for key, value in self.metadata.items() if key != "schema"}
        before = {"version": self.path.absolute().name, "identity_hash": metadata.pop("identity_hash", None)}
        if fields := explicit(self.fields):
            metadata["fields"] = fields
        write_json(new / "metadata.json", {**metadata, "annotator": dict(annotator), "labelled_from": before})

    def _pose_of_0_2(self) -> Columns:
        _, extra = _about(self.version.episode(self.places[0].shard, self.places[0].position))
        return Columns.parse("position quat_wxyz gripper_01:2") if extra.get("opening_unit") == "1" else POSE


def _about(stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of `episode_metadata`, and what our datasets hold there as JSON."""
    prefix = "episode_metadata/"
    about = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    return about, json.loads(as_text(about.get("extra_json")) or "{}")


# How TFDS stores it


class Version:
    """A dataset version on disk.

    Attributes:
        path: its folder, e.g. `data/threading/1.0.0`.
        steps: field of a step (`observation/state`) to its TFDS feature.
        stored: every field of a record (`steps/action`, `episode_metadata/success`) to how it is stored.
        shards: split to its files, each with its number of episodes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        require_version(self.path)
        _require_tfds_features(self.path / "features.json")
        import tensorflow_datasets as tfds

        info = tfds.builder_from_directory(str(self.path)).info
        steps = dict(info.features.items()).get("steps")
        if not isinstance(steps, tfds.features.Dataset):
            raise EpisodeError(f"{self.path}: no Dataset 'steps' among the features; this is not RLDS")
        self.steps: dict[str, Any] = dict(sorted(flat(steps.feature, separator="/")))
        self.stored: dict[str, Any] = dict(flat(info.features.get_serialized_info(), separator="/"))
        self.shards = {
            name: [(Path(str(file)), count) for file, count in zip(split.filepaths, split.shard_lengths)]
            for name, split in info.splits.items()
        }

    def episode(self, shard: Path, position: int) -> dict[str, Any]:
        """The `stored` fields of one episode, those of steps stacked; what the record lacks is left out.

        Pictures stay encoded (`decode_pictures`).
        """
        from tensorflow_datasets.core.example_parser import ExampleParserNp

        parsed = ExampleParserNp(self.stored).parse_example(self._records(shard)[position])
        found = dict(flat(parsed, separator="/"))
        for path in found:
            feature: Any = self.steps.get(path.removeprefix("steps/"))
            packed = np.dtype(self.stored[path].np_dtype).kind == "O"  # as bytes, or by zlib
            if packed and type(feature).__name__ == "Tensor":
                found[path] = np.stack([feature.decode_example_np(row) for row in found[path]])
        return found

    @functools.lru_cache(maxsize=4)  # noqa: B019  a version lives as long as its reader
    def _records(self, shard: Path) -> Records:
        return Records(shard)


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
        """One record. Raises EpisodeError: its checksum differs, or it is cut off, or not there."""
        import tensorflow as tf

        try:
            return self._reader.read(self._places[index])[0]  # type: ignore[no-any-return]
        except (tf.errors.DataLossError, IndexError):
            raise EpisodeError(f"{self.file}, record {index} is damaged or lacking; copy the file again") from None

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

    frames = _decoder()(tf.constant(list(encoded))).numpy()
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    small = tf.image.resize(frames, size, method="lanczos3", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8).numpy()  # type: ignore[no-any-return]


@functools.cache
def _decoder() -> Any:
    """Encoded pictures of one shape to a stack of them, several at a time; compiled once a process."""
    import tensorflow as tf

    def decode(one: Any) -> Any:
        return tf.io.decode_image(one, channels=3, expand_animations=False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def stack(encoded: Any) -> Any:
        return tf.map_fn(decode, encoded, fn_output_signature=tf.uint8)

    return stack


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


def cameras_named(pictures: Sequence[str]) -> dict[str, str]:
    """Camera to field of pictures: `image_*` keep their names, `image` is the primary one, a wrist's is the wrist's.

    >>> cameras_named(["observation/image", "observation/wrist_image", "observation/depth_view"])
    {'image_primary': 'observation/image', 'image_wrist': 'observation/wrist_image', 'image_depth_view': \
'observation/depth_view'}
    """
    cameras: dict[str, str] = {}
    for path in pictures:
        name = path.rpartition("/")[2]
        usual = {"image": "image_primary", "wrist_image": "image_wrist", "hand_image": "image_wrist"}
        camera = usual.get(name, name if name.startswith("image_") else f"image_{name}")
        cameras.setdefault(camera, path)
    return cameras


def copy_with(file: Path, out: Path, labels: Iterator[Labels]) -> int:
    """Copies a shard, each record with the next labels; returns the bytes of its records.

    Records are edited as `tf.train.Example`s, so that pictures and all other fields stay the bytes they were.
    """
    import tensorflow as tf

    size = 0
    with tf.io.TFRecordWriter(str(out)) as writer:
        for record in Records(file):
            example = tf.train.Example.FromString(record)
            features, own = example.features.feature, next(labels)
            for key in LABELS:
                features.pop(f"steps/{key}", None)
            features["steps/rho"].float_list.value.extend(own["rho"].tolist())
            features["steps/change_point"].int64_list.value.extend(own["change_point"].astype(int).tolist())
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            size += len(record)
    return size
