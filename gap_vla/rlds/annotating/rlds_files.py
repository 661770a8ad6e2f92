"""An RLDS dataset's new version with `steps/rho` and `steps/change_point`.

Records are edited as `tf.train.Example`s: images stay the encoded bytes they were, and every other feature of every
episode is the same byte for byte, whatever the dataset's own fields are.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Error
from PIL import Image

from gap_vla.core.episode import OPENING_UNIT, Episode, EpisodeError
from gap_vla.core.foreign import Section, refusing
from gap_vla.core.outputs import FOLDER_MARK, deliver
from gap_vla.core.resources import require_disk
from gap_vla.core.whole import workplace
from gap_vla.demos.fields import as_rows, as_truths
from gap_vla.demos.layout import StateLayout
from gap_vla.rlds.annotating.job import AnnotatedFiles, AnnotationError, AnnotationJob, joined
from gap_vla.rlds.reader import dataset_metadata, read_steps
from gap_vla.rlds.target import VERSION
from gap_vla.rlds.version_files import counted, open_version, records

PICTURES = (b"\x89PNG", b"\xff\xd8\xff")
"""How encoded PNG and JPEG images begin."""

ANEW = {"dataset_info.json", "features.json", "metadata.json", "annotator", FOLDER_MARK}
"""What an annotated copy has of its own, besides its shards."""

LANGUAGE = ("language_instruction", "observation/natural_language_instruction")


def examples(file: Path) -> Iterator[Any]:
    """The records of a shard.

    Raises:
        AnnotationError: it is damaged.
    """
    import tensorflow as tf

    for record in records(file, AnnotationError):
        with refusing(f"{file} holds something else than examples", "copy it again", AnnotationError, (Error,)):
            yield tf.train.Example.FromString(record)


def episode_of(example: Any, file: str, number: int, job: AnnotationJob, *, images: bool = False) -> Episode:
    """One episode: state and phases, and if wanted its images and labels.

    Raises:
        AnnotationError: no such state (the message lists what there is), or a damaged field.
    """
    where = f"{file}, episode {number}"
    with refusing(where, "convert the source again", AnnotationError, (Image.DecompressionBombError,)):
        steps, features, layout = _steps(example, where), example.features.feature, StateLayout.of(job.layout)
        state = joined(job.state.split("+"), lambda name: _column(example, name, steps, where), where)
        proprio = layout.to_proprio(as_rows(state, f"{where}: {job.state!r}"), where)
        known: dict[str, Any] = {}
        if "steps/phase" in features:
            known["phase"] = np.array([name.decode() for name in features["steps/phase"].bytes_list.value])
        if images and "steps/rho" in features:
            known["rho"] = _column(example, "rho", steps, where).ravel().astype(np.float32)
        if images and "steps/change_point" in features:
            known["change_point"] = as_truths(_column(example, "change_point", steps, where).ravel())
        for name in LANGUAGE:
            if texts := features[f"steps/{name}"].bytes_list.value if f"steps/{name}" in features else ():
                known["language_instruction"] = texts[0].decode()
                break
        return Episode(
            _images(example, steps) if images else {},
            proprio,
            np.zeros((steps, 0), np.float32),
            metadata={"file_path": file, "episode_id": number, **_recorded(features), **layout.facts},
            **known,
        ).validate()


def _recorded(features: Any) -> dict[str, Any]:
    """The unit of the gripper, where a dataset of ours was converted from one whose openings are not in m."""
    key = "episode_metadata/extra_json"
    if key not in features or not (text := features[key].bytes_list.value):
        return {}
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return {OPENING_UNIT: json.loads(text[0])[OPENING_UNIT]}
    return {}


def _steps(example: Any, where: str) -> int:
    features = example.features.feature
    if "steps/is_first" not in features:
        raise AnnotationError(f"{where}: no 'steps/is_first' (found: {_known(example)})")
    return len(features["steps/is_first"].int64_list.value)


def _column(example: Any, name: str, steps: int, where: str) -> np.ndarray:
    features = example.features.feature
    if f"steps/{name}" not in features:
        raise AnnotationError(f"{where}: no 'steps/{name}' (found: {_known(example)})")
    feature = features[f"steps/{name}"]
    values = np.array(getattr(feature, feature.WhichOneof("kind") or "float_list").value)
    if values.dtype.kind not in "fi" or (steps and len(values) % steps):
        raise AnnotationError(f"{where}: 'steps/{name}' holds {len(values)} values of {values.dtype} for {steps} steps")
    return values.reshape(steps, -1 if steps else 0)


def _known(example: Any) -> str:
    return ", ".join(sorted(key for key in example.features.feature if key.startswith("steps/")))


def _images(example: Any, steps: int) -> dict[str, np.ndarray]:
    """uint8[T, h, w, 3] per camera: every step feature whose bytes are coloured pictures of one size."""
    found = {}
    for key, feature in sorted(example.features.feature.items()):
        values = feature.bytes_list.value
        if not key.startswith("steps/") or len(values) != steps or not steps or not values[0].startswith(PICTURES):
            continue
        pictures = [Image.open(io.BytesIO(value), formats=("PNG", "JPEG")) for value in values]
        if pictures[0].mode in ("RGB", "RGBA", "L", "P") and len({picture.size for picture in pictures}) == 1:
            name = key.removeprefix("steps/").removeprefix("observation/")
            found[name] = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return found


def annotate(source: Path, out: Path, job: AnnotationJob) -> AnnotatedFiles:
    """Writes the dataset version `out` (`…/NAME/VERSION`); the annotator goes to `out/annotator/`.

    The annotator is fitted on the split `train` where there is one, so that labels of other splits are predictions.
    """
    if not VERSION.fullmatch(out.name):
        raise AnnotationError(f"{out}: the last part must be a version such as 1.1.0, or TFDS will not find it")
    info, episodes, places, extra = read_all(source, job)
    shards = list(dict.fromkeys((split, file) for split, file, _ in places))
    others = _other_files(source, {file.name for _, file in shards})
    for split in {split for split, _ in shards}:
        next(read_steps(source, split))  # with its features: what nobody can decode is not worth a copy
    size = sum(file.stat().st_size for file in (*others, *(file for _, file in shards)))
    require_disk({"the copy": size}, out.parent, "their number, or name another disk")
    fit = [i for i, (split, _, _) in enumerate(places) if split == "train"] or None
    annotation = job.run(episodes, extra or None, fit)
    with workplace(out) as folder:
        new = folder / out.name
        new.mkdir()
        for path in others:
            target = new / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        sizes: dict[str, int] = {}
        index = 0
        for split, file in shards:
            index, size = _write(file, new / file.name, annotation, index)
            sizes[split] = sizes.get(split, 0) + size
        _write_features(source, new)
        for entry in info["splits"]:
            entry["numBytes"] = str(sizes.get(entry["name"], 0))
        info["version"] = out.name
        (new / "dataset_info.json").write_text(json.dumps(info, indent=2, sort_keys=True))
        _write_metadata(source, new, annotation.identity)
        annotation.annotator.save(new / "annotator")
        deliver(new, out, "dataset", overwrite=job.overwrite)

    copies = [(out / file.name, job, number) for _, file, number in places]
    return AnnotatedFiles(out, out / "annotator", annotation, episodes, lambda index: next(_decoded(*copies[index])))


def read_all(
    source: Path, job: AnnotationJob
) -> tuple[dict[str, Any], list[Episode], list[tuple[str, Path, int]], list[np.ndarray]]:
    """dataset_info.json; every episode without images; its split, shard and number therein; its extra columns.

    Raises:
        AnnotationError, EpisodeError: a damaged file, or other episodes than dataset_info.json says.
    """
    info, shards = _described(source)
    episodes: list[Episode] = []
    places: list[tuple[str, Path, int]] = []
    extra: list[np.ndarray] = []
    for split, file, count in shards:
        before = len(episodes)
        for number, example in enumerate(examples(file)):
            episodes.append(episode_of(example, f"{file}", number, job))
            places.append((split, file, number))
            if job.extra_names:
                column = functools.partial(_column, example, steps=len(episodes[-1]), where=f"{file}, episode {number}")
                extra.append(joined(job.extra_names, column, f"{file}, episode {number}"))
        counted(file, len(episodes) - before, count)
    return info, episodes, places, extra


def read(source: Path, index: int, job: AnnotationJob, split: str) -> Episode:
    """Episode `index` of a split with its images and, where there are, its labels.

    Raises:
        AnnotationError: no such split or episode.
    """
    _, shards = _described(source)
    if split not in (known := sorted({name for name, _, _ in shards})):
        raise AnnotationError(f"{source}: no split {split!r}; it has {', '.join(known)}")
    left = index
    for file, count in [(file, count) for name, file, count in shards if name == split]:
        if 0 <= left < count:
            episode = next(_decoded(file, job, left))
            if episode.rho is None and "rho" in open_version(source).info.features["steps"].feature:
                raise EpisodeError(f"{file}, episode {left}: no rho, which features.json declares; copy the data again")
            return episode
        left -= count
    raise AnnotationError(f"{source}, split {split}: no episode {index}")


def _decoded(file: Path, job: AnnotationJob, first: int) -> Iterator[Episode]:
    for number, example in enumerate(examples(file)):
        if number >= first:
            yield episode_of(example, f"{file}", number, job, images=True)


def _described(source: Path) -> tuple[dict[str, Any], list[tuple[str, Path, int]]]:
    """dataset_info.json, and split, path and number of episodes of every shard in order."""
    info = dict(Section.read(source / "dataset_info.json", EpisodeError).values)
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise AnnotationError(f"{source}: files are {info['fileFormat']}; only tfrecord can be annotated")
    splits = open_version(source).info.splits
    return info, [
        (entry["name"], Path(str(file)), count)
        for entry in info["splits"]
        for file, count in zip(splits[entry["name"]].filepaths, splits[entry["name"]].shard_lengths)
    ]


def _write(file: Path, out: Path, annotation: Any, index: int) -> tuple[int, int]:
    import tensorflow as tf

    size, written = 0, hashlib.sha256()
    with tf.io.TFRecordWriter(str(out)) as writer:
        for example in examples(file):
            features = example.features.feature
            for key in ("steps/rho", "steps/change_point"):
                if key in features:
                    del features[key]
            labels = annotation.labels(index)
            features["steps/rho"].float_list.value.extend(labels["rho"].tolist())
            features["steps/change_point"].int64_list.value.extend(labels["change_point"].astype(int).tolist())
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            written.update(record)
            index, size = index + 1, size + len(record)
    found = hashlib.sha256()
    for record in records(out):
        found.update(record)
    if found.digest() != written.digest():
        raise AnnotationError(f"{out.name} was read back and came out different; check the disk and annotate again")
    return index, size


def _write_features(source: Path, out: Path) -> None:
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict.from_config(str(source))
    inner = dict(features["steps"].feature.items())
    inner |= {"rho": tfds.features.Scalar(np.float32), "change_point": tfds.features.Scalar(np.bool_)}
    outer = {key: value for key, value in features.items() if key != "steps"}
    tfds.features.FeaturesDict({**outer, "steps": tfds.features.Dataset(inner)}).save_config(str(out))


def _write_metadata(source: Path, out: Path, identity: dict[str, Any]) -> None:
    metadata = dataset_metadata(source)
    before = {"version": source.name, "identity_hash": metadata.pop("identity_hash", None)}
    if isinstance(metadata.get("schema"), dict):
        metadata["schema"] = {**metadata["schema"], "rho": True}
    metadata |= {"annotator": identity, "labelled_from": before}
    (out / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def _other_files(source: Path, written: set[str]) -> list[Path]:
    """What the copy takes over as it is: all but what is hidden, and what is `written` anew.

    Raises:
        AnnotationError: a pipe, a device, or a link that leads to a folder or out of the dataset.
    """
    found, inside = [], Path(os.path.realpath(source))
    for path in sorted(source.rglob("*")):
        first = path.relative_to(source).parts[0]
        if first.startswith(".") or first in written | ANEW or (path.is_dir() and not path.is_symlink()):
            continue
        if not path.is_file() or not Path(os.path.realpath(path)).is_relative_to(inside):
            raise AnnotationError(
                f"{path} is a pipe, a device or a link that leads elsewhere, and is not copied; remove it, or put a "
                "file in its place"
            )
        found.append(path)
    return found
