"""Any RLDS dataset as a `Source` of episodes, and a copy of it with labels."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.columns import DELTA, POSE, Columns
from gap_vla.core.episode import LABELS
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, replacing, write_json
from gap_vla.demos.arrays import as_text
from gap_vla.demos.fields import Fields, explicit
from gap_vla.demos.source import ArraySource, Labels, Place, Recording
from gap_vla.rlds.records import Records, Version, dataset_hash, dataset_metadata, decode_pictures, is_picture

Sizes = Mapping[str, tuple[int, int]]

INSTRUCTIONS = ("language_instruction", "observation/natural_language_instruction", "observation/language_instruction")
"""Step fields of the instruction; the first one that is not blank counts."""

MISSING = "missing_cameras"
"""Key of an episode's metadata: cameras that it has no pictures of, by the dataset's flags such as `has_image_1`."""


@dataclasses.dataclass(frozen=True)
class Record(Place):
    """An episode of a dataset; `file` is the dataset's folder."""

    split: str
    number: int


class RLDS(ArraySource):
    """The episodes of an RLDS dataset, those of one split behind those of another.

    Arrays are step fields by their path, as `observation/state`; what `observation/` holds needs no more than its own
    name. A dataset of ours needs no fields: it says itself what its columns are.

    Args:
        path: the folder of one version, e.g. `data/threading/1.0.0`.
        fields: which step fields are what.
        split: read this one only.
        resize: camera to (height, width), Lanczos with antialiasing as upstream does; `fields.image_size` is of all.
    """

    kind = "rlds"
    OUTPUT = "dataset"
    STATES = ("observation/proprio", "observation/state")
    ACTIONS = ("action",)
    INSIDE = ("observation/",)

    def __init__(
        self,
        path: str | Path,
        fields: Fields | None = None,
        *,
        split: str | None = None,
        resize: Sizes | None = None,
    ) -> None:
        self.metadata, self.resize = dataset_metadata(path), dict(resize or {})
        self._split, self.path = split, Path(path)
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

    def find(self) -> tuple[list[Place], dict[str, list[str]]]:
        counts = self.version.counts
        if self._split and self._split not in counts:
            raise EpisodeError(f"{self.path}: no split {self._split!r}; it has {', '.join(counts)}")
        names = {split: [f"{split}[{i}]" for i in range(counts[split])] for split in counts}
        wanted = [self._split] if self._split else list(counts)
        places = [Record(self.path, name, split, i) for split in wanted for i, name in enumerate(names[split])]
        return list(places), names

    @contextlib.contextmanager
    def recording(self, place: Any) -> Iterator[Recording]:
        arrays = StepFields(self.version, place.split, place.number, self._sizes())
        about = arrays.about()
        metadata = {key: text for key in ("episode_id", "file_path") if (text := as_text(about.get(key)))}
        metadata |= json.loads(as_text(about.get("extra_json")) or "{}")
        cameras = {camera: name.rpartition("/")[2] for camera, name in getattr(self, "cameras", {}).items()}
        if missing := [camera for camera, name in cameras.items() if not about.get(f"has_{name}", True)]:
            metadata[MISSING] = missing
        texts = [arrays[name] for name in INSTRUCTIONS if name in arrays]
        instruction = next((text for text in texts if any(as_text(one).strip() for one in text)), "")
        yield Recording(arrays, instruction, about.get("success", True), metadata)

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        key = {("observation/proprio",): "proprio", ("action",): "action"}.get(tuple(names), "")
        if text := self.metadata.get("columns", {}).get(key):
            return Columns.parse(text)
        if key and "identity" in self.metadata and "columns" not in self.metadata:  # made by 0.2
            arm = self._pose_of_0_2() if key == "proprio" else DELTA
            return arm.times(sum(widths) // arm.width) if sum(widths) % arm.width == 0 else None
        return None

    def cameras_of(self, first: Recording) -> dict[str, str]:
        pictures = [name for name in self.names if is_picture(self.version.steps[name])]
        return cameras_named(pictures)

    @property
    def about(self) -> dict[str, Any]:
        made_from = self.metadata.get("identity", {}).get("data", {})
        said = {**made_from, **made_from.get("demos", {})}
        return {key: said[key] for key in ("task", "variant", "camera") if key in said}

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "fields": explicit(self.fields), "content": dataset_hash(self.path)}

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Writes the dataset's version `out`: each record as it is, with `steps/rho` and `steps/change_point`."""
        if len(self) != sum(self.version.counts.values()):
            raise EpisodeError(f"{self.path}: a copy holds all episodes; leave out split and episodes")
        shards = {split: [file for file, _ in self.version.shards(split)] for split in self.version.counts}
        anew = {file.name for files in shards.values() for file in files}
        with replacing(out) as new:
            new.mkdir()
            for path in self.path.iterdir():
                if path.is_file() and path.name not in anew and path.name[0] != ".":
                    shutil.copyfile(path, new / path.name)
            remaining = iter(labels)
            sizes = {
                split: sum(copy_with(file, new / file.name, remaining) for file in files)
                for split, files in shards.items()
            }
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
        said = {"fields": explicit(self.fields)} if explicit(self.fields) else {}
        write_json(new / "metadata.json", {**metadata, **said, "annotator": dict(annotator), "labelled_from": before})

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Array of pictures to the size to which they are resized."""
        cameras = getattr(self, "cameras", {})
        sizes = {name: self.resize.get(camera, self.fields.image_size) for camera, name in cameras.items()}
        return {name: size for name, size in sizes.items() if size}

    def _pose_of_0_2(self) -> Columns:
        first = self.places[0]
        said = json.loads(
            as_text(StepFields(self.version, first.split, first.number).about().get("extra_json")) or "{}"
        )
        return Columns.parse("position quat_wxyz gripper_01:2") if said.get("opening_unit") == "1" else POSE


class StepFields(Mapping[str, Any]):
    """The step fields of one episode by their path, stacked; pictures are decoded when they are asked for."""

    def __init__(self, version: Version, split: str, number: int, sizes: Sizes | None = None) -> None:
        self._version, self._sizes, self._record = version, sizes or {}, version.record(split, number)

    def about(self) -> dict[str, Any]:
        """The fields of `episode_metadata`."""
        prefix = "episode_metadata/"
        return {path.removeprefix(prefix): value for path, value in self._plain.items() if path.startswith(prefix)}

    @functools.cached_property
    def _plain(self) -> dict[str, Any]:
        """Everything but pictures, which are large."""
        pictures = {
            f"steps/{name}" for name, feature in self._version.steps.items() if type(feature).__name__ == "Image"
        }
        return self._version.read(self._record, [path for path in self._version.stored if path not in pictures])

    def __getitem__(self, name: str) -> Any:
        if not is_picture(self._version.steps[name]):
            return self._plain[f"steps/{name}"]
        encoded = self._version.read(self._record, [f"steps/{name}"])[f"steps/{name}"]
        return decode_pictures(encoded, self._sizes.get(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._version.steps)

    def __len__(self) -> int:
        return len(self._version.steps)

    def __contains__(self, name: object) -> bool:
        return name in self._version.steps


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
