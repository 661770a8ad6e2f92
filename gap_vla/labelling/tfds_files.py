"""An RLDS dataset's new version with `steps/rho` and `steps/change_point`.

Records are edited as `tf.train.Example`s: images stay the encoded bytes they were, and every other feature of every
episode is the same byte for byte, whatever the dataset's own fields are.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.demos.layout import StateLayout
from gap_vla.episode import Episode
from gap_vla.labelling.job import LabelJob, LabelledFiles, LabellingError, change_flags, replacing_folder

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def label(source: Path, out: Path, job: LabelJob) -> LabelledFiles:
    """Writes the dataset version `out` (`…/NAME/VERSION`); the annotator goes to `out/annotator/`.

    The annotator is fitted on the split `train` where there is one, so that labels of other splits are predictions.
    """
    if not _VERSION.fullmatch(out.name):
        raise LabellingError(f"{out}: the last part must be a version such as 1.1.0, or TFDS will not find it")
    info = json.loads((source / "dataset_info.json").read_text())
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise LabellingError(f"{source}: files are {info['fileFormat']}; only tfrecord can be labelled")
    shards = _shards(source, info)
    episodes, splits = [], []
    for split, file in shards:
        for number, example in enumerate(_examples(file)):
            episodes.append(_episode(example, f"{file}", number, job))
            splits.append(split)
    fit = [i for i, split in enumerate(splits) if split == "train"] or None
    annotation = job.run(episodes, fit)
    with replacing_folder(out) as temporary:
        _copy_other_files(source, temporary, {file.name for _, file in shards})
        sizes: dict[str, int] = {}
        index = 0
        for split, file in shards:
            index, size = _write(file, temporary / file.name, annotation, index)
            sizes[split] = sizes.get(split, 0) + size
        _write_features(source, temporary)
        for entry in info["splits"]:
            entry["numBytes"] = str(sizes[entry["name"]])
        info["version"] = out.name
        (temporary / "dataset_info.json").write_text(json.dumps(info, indent=2, sort_keys=True))
        _write_metadata(source, temporary, annotation.identity)
        shutil.rmtree(temporary / "annotator", ignore_errors=True)
        annotation.annotator.save(temporary / "annotator")
    return LabelledFiles(out, out / "annotator", annotation, episodes)


def _shards(source: Path, info: dict[str, Any]) -> list[tuple[str, Path]]:
    import tensorflow_datasets as tfds

    splits = tfds.builder_from_directory(str(source)).info.splits
    found = [(entry["name"], Path(str(file))) for entry in info["splits"] for file in splits[entry["name"]].filepaths]
    for _, file in found:
        if not file.is_file():
            raise LabellingError(f"{file} is missing; the dataset is incomplete: copy or build it again")
    return found


def _examples(file: Path) -> Iterator[Any]:
    import tensorflow as tf

    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            yield tf.train.Example.FromString(record)
    except tf.errors.DataLossError:
        raise LabellingError(f"{file} is truncated or damaged: copy it again or convert the source again") from None


def _episode(example: Any, file: str, number: int, job: LabelJob) -> Episode:
    features = example.features.feature
    state, first = f"steps/{job.state}", "steps/is_first"
    for key in (state, first):
        if key not in features:
            known = ", ".join(sorted(key for key in features if key.startswith("steps/")))
            raise LabellingError(f"{file}, episode {number}: no '{key}' (found: {known})")
    steps = len(features[first].int64_list.value)
    values = np.array(features[state].float_list.value, np.float32).reshape(steps, -1)
    phase = None
    if "steps/phase" in features:
        phase = np.array([name.decode() for name in features["steps/phase"].bytes_list.value])
    metadata = {"file_path": file, "episode_id": number}
    proprio = StateLayout.of(job.layout).to_proprio(values, f"{file}, episode {number}")
    return Episode({}, proprio, np.zeros((steps, 0), np.float32), phase=phase, metadata=metadata)


def _write(file: Path, out: Path, annotation: Any, index: int) -> tuple[int, int]:
    import tensorflow as tf

    size = 0
    with tf.io.TFRecordWriter(str(out)) as writer:
        for example in _examples(file):
            features = example.features.feature
            for key in ("steps/rho", "steps/change_point"):
                if key in features:
                    del features[key]
            features["steps/rho"].float_list.value.extend(annotation.rho[index].tolist())
            features["steps/change_point"].int64_list.value.extend(change_flags(annotation, index).astype(int).tolist())
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            index, size = index + 1, size + len(record)
    return index, size


def _write_features(source: Path, out: Path) -> None:
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict.from_config(str(source))
    inner = dict(features["steps"].feature.items())
    inner |= {"rho": tfds.features.Scalar(np.float32), "change_point": tfds.features.Scalar(np.bool_)}
    outer = {key: value for key, value in features.items() if key != "steps"}
    tfds.features.FeaturesDict({**outer, "steps": tfds.features.Dataset(inner)}).save_config(str(out))


def _write_metadata(source: Path, out: Path, identity: dict[str, Any]) -> None:
    path = source / "metadata.json"
    metadata = json.loads(path.read_text()) if path.exists() else {}
    before = {"version": source.name, "identity_hash": metadata.pop("identity_hash", None)}
    if isinstance(metadata.get("schema"), dict):
        metadata["schema"] = {**metadata["schema"], "rho": True}
    metadata |= {"annotator": identity, "labelled_from": before}
    (out / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def _copy_other_files(source: Path, out: Path, shards: set[str]) -> None:
    for path in source.iterdir():
        if path.name in shards or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, out / path.name)
        else:
            shutil.copyfile(path, out / path.name)
