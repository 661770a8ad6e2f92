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
        fields: which step fields are what; `episodes` may name a split. Pictures are resized as upstream does, by
            Lanczos with antialiasing.
    """

    kind = "rlds"
    OUTPUT = "dataset"
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

    def find(self) -> tuple[list[Place], dict[str, list[str]]]:
        names = {split: [f"{split}[{i}]" for i in range(count)] for split, count in self.version.counts.items()}
        places = [Record(self.path, name, split, i) for split in names for i, name in enumerate(names[split])]
        return list(places), names

    @contextlib.contextmanager
    def recording(self, place: Any) -> Iterator[Recording]:
        arrays = StepFields(self.version, place.split, place.number, self.fields.image_size)
        about = arrays.about
        names = {key: as_text(about[key]) for key in ("episode_id", "file_path") if about.get(key)}
        metadata: dict[str, Any] = {**names, **arrays.extra}
        cameras = {camera: name.rpartition("/")[2] for camera, name in getattr(self, "cameras", {}).items()}
        if missing := [camera for camera, name in cameras.items() if not about.get(f"has_{name}", True)]:
            metadata[MISSING] = missing
        texts = [arrays[name] for name in INSTRUCTIONS if name in arrays]
        instruction = next((text for text in texts if any(as_text(one).strip() for one in text)), "")
        yield Recording(arrays, instruction, about.get("success", True), metadata)

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
        if len(self) != sum(self.version.counts.values()):
            raise EpisodeError(f"{self.path}: a copy holds all episodes; leave out the selection of episodes")
        shards = {split: [file for file, _ in self.version.shards(split)] for split in self.version.counts}
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
        first = self.places[0]
        unit = StepFields(self.version, first.split, first.number).extra.get("opening_unit")
        return Columns.parse("position quat_wxyz gripper_01:2") if unit == "1" else POSE


class StepFields(Mapping[str, Any]):
    """The step fields of one episode by their path, stacked; pictures are decoded when they are asked for."""

    def __init__(self, version: Version, split: str, number: int, size: tuple[int, int] | None = None) -> None:
        self._version, self._size = version, size
        self._stored = version.episode(split, number)

    @property
    def about(self) -> dict[str, Any]:
        """The fields of `episode_metadata`."""
        prefix = "episode_metadata/"
        return {path.removeprefix(prefix): value for path, value in self._stored.items() if path.startswith(prefix)}

    @property
    def extra(self) -> dict[str, Any]:
        """What our datasets hold of an episode's metadata beside its name and file."""
        return json.loads(as_text(self.about.get("extra_json")) or "{}")  # type: ignore[no-any-return]

    def __getitem__(self, name: str) -> Any:
        value = self._stored[f"steps/{name}"]
        return decode_pictures(value, self._size) if is_picture(self._version.steps[name]) else value

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
