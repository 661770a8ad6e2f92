"""An existing RLDS dataset in, the same with ρ out: records are extended, nothing is decoded or encoded again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.demos.layout import StateLayout
from gap_vla.episode import Episode, EpisodeError
from gap_vla.rlds.disk import naming_a_full_disk
from gap_vla.rlds.fields import flatten
from gap_vla.rlds.labelled import change_point_mask
from gap_vla.rlds.reader import dataset_metadata, open_builder, read_steps
from gap_vla.rlds.statistics import dataset_statistics, save_statistics
from gap_vla.rlds.target import DESCRIPTION, MODULE, DatasetTarget


def annotate_rlds(
    version_dir: str | Path,
    data_dir: str | Path,
    name: str,
    *,
    state_key: str = "observation/state",
    layout: str | Mapping[str, Any] | StateLayout = "bridge",
    action_key: str = "action",
    method: str = "lstm",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    annotator: str | Path | None = None,
    version: str = "1.0.0",
    overwrite: bool = False,
    module: str = MODULE,
    description: str = DESCRIPTION,
) -> Path:
    """Adds `steps/rho` and `steps/change_point` to every episode of an RLDS dataset and leaves the rest as it is.

    Every feature, split, shard and record of the dataset is kept; pictures are copied as they are stored.

    Args:
        version_dir: the dataset, e.g. `~/tensorflow_datasets/bridge_dataset/1.0.0`.
        data_dir: where the new dataset goes.
        name: its name.
        state_key: step field with the end effector's pose, nested with slashes (`"observation/EEF_state"`), or
            several joined by `+` (`"observation/cartesian_position+observation/gripper_position"`).
        layout: columns of the state, a name of `gap_vla.demos.layout.LAYOUTS` or its attributes.
        action_key: for the statistics.
        method, seed, options: of `gap_vla.phases.annotate`.
        annotator: folder of a saved annotator to label with instead.
        version: of the new dataset.
        overwrite: replace an existing, different dataset.
        module, description: of the builder class that writes the dataset, for its `dataset_info.json`.

    Returns:
        The new version directory.

    Raises:
        EpisodeError: no such field, other widths, damaged shards. DatasetError: a different dataset is there already.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import features as feature_lib

    from gap_vla.phases import LABELS_VERSION, annotate, load_annotator

    version_dir = Path(version_dir).expanduser()
    layout = StateLayout.of(layout)
    builder = open_builder(version_dir)
    wanted = {"method": method, "seed": seed, "options": dict(options or {})}
    settings = {
        "name": name,
        "version": version,
        "data": {
            "rlds": _content(version_dir),
            "state_key": state_key,
            "layout": vars(layout),
            "annotation": load_annotator(annotator).identity if annotator else wanted,
            "labels_version": LABELS_VERSION,
        },
    }
    with (
        DatasetTarget(data_dir, name, version, settings, overwrite) as target,
        naming_a_full_disk(target.partial, "nothing is half-written under the final name"),
    ):
        if target.reused:
            return target.path
        episodes = list(low_dimensional(version_dir, builder, state_key, action_key, layout))
        if annotator is not None:
            annotation = load_annotator(annotator).label(episodes)
        else:
            annotation = annotate(episodes, method=method, seed=seed, **dict(options or {}))
        step = builder.info.features["steps"].feature
        extended = {**dict(step.items()), "rho": tfds.features.Scalar(np.float32), "change_point": np.bool_}
        features = feature_lib.FeaturesDict(
            {**dict(builder.info.features.items()), "steps": tfds.features.Dataset(extended)}
        )
        lengths: dict[str, list[int]] = {}
        sizes: list[int] = []
        position = 0
        for split, info in builder.info.splits.items():
            lengths[split] = list(info.shard_lengths)
            for i, shard in enumerate(sorted(info.filepaths)):
                count = info.shard_lengths[i]
                rho = annotation.rho[position : position + count]
                points = annotation.change_points[position : position + count]
                target_name = f"{name}-{split}.tfrecord-{i:05d}-of-{len(info.shard_lengths):05d}"
                sizes.append(_extend_shard(Path(shard), target.partial / target_name, rho, points))
                position += count
        statistics = dataset_statistics([e.action for e in episodes], [e.metadata["state"] for e in episodes])
        save_statistics(statistics, target.partial / "dataset_statistics.json")
        annotation.save(target.partial / "annotator")
        target.write_info(features, lengths, sizes, module=module, description=description)
        target.write_metadata(
            annotator=dict(annotation.identity), source_metadata=dataset_metadata(version_dir), state_key=state_key
        )
        return target.finish()


def _content(version_dir: Path) -> dict[str, Any]:
    """Names and sizes of the shards and the description: foreign datasets are too large to hash."""
    return {p.name: p.stat().st_size for p in sorted(version_dir.iterdir()) if p.is_file()}


def low_dimensional(
    version_dir: Path, builder: Any, state_key: str, action_key: str, layout: StateLayout
) -> Iterator[Episode]:
    """The episodes of all splits, poses and actions only; `metadata["state"]` is the state as it stands there."""
    for split in builder.info.splits:
        for index, (steps, _) in enumerate(read_steps(version_dir, split, images=False)):
            fields = flatten(steps)
            where = f"{version_dir}, {split}[{index}]"
            for key in (*state_key.split("+"), action_key):
                if key not in fields:
                    raise EpisodeError(f"{where}: no step field {key!r} (fields: {', '.join(sorted(fields))})")
            columns = [fields[k].reshape(len(fields[k]), -1) for k in state_key.split("+")]
            state = np.concatenate(columns, axis=1)
            yield Episode(
                images={},
                proprio=layout.to_proprio(state, where),
                action=fields[action_key].reshape(len(state), -1).astype(np.float32),
                metadata={"file_path": str(version_dir), "episode_id": f"{split}[{index}]", "state": state},
            ).validate()


def _extend_shard(source: Path, path: Path, rho: list[np.ndarray], points: list[np.ndarray]) -> int:
    import tensorflow as tf

    temporary, payload, count = path.with_name(f".{path.name}.tmp"), 0, 0
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for count, record in enumerate(tf.data.TFRecordDataset(str(source)).as_numpy_iterator(), start=1):
            if count > len(rho):
                break
            example = tf.train.Example.FromString(record)
            values = np.asarray(rho[count - 1], np.float32)
            mask = change_point_mask(points[count - 1], len(values))
            example.features.feature["steps/rho"].float_list.value[:] = values.tolist()
            example.features.feature["steps/change_point"].int64_list.value[:] = mask.astype(int).tolist()
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            payload += len(record)
    if count != len(rho):
        temporary.unlink()
        raise EpisodeError(f"{source}: {count} records where dataset_info.json says {len(rho)}; copy the file again")
    os.replace(temporary, path)
    return payload
