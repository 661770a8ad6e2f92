"""How episodes are written: Octo/OXE's RLDS fields plus ρ, in shards of TFRecords."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError, EpisodeError
from gap_vla.core.files import replacing
from gap_vla.core.identity import differences, in_words, plain
from gap_vla.demos.source import Labels
from gap_vla.rlds.annotate import with_rho

if TYPE_CHECKING:
    from gap_vla.phases import Annotator

SCHEMA_VERSION = 2
"""Raise it whenever a change of code gives the same episodes another dataset: its layout, splits or statistics."""

SHARD_BYTES = 128 * 2**20
MAX_EPISODES_PER_SHARD = 32


def layout_of(episode: Episode) -> dict[str, tuple[int, ...]]:
    """Every array of an episode and its shape in one step; a dataset has one layout."""
    return {key: value.shape[1:] for key, value in episode.arrays.items()}


def features_of(layout: Mapping[str, tuple[int, ...]]) -> Any:
    """The `tfds.features.FeaturesDict` of a dataset of ours: OXE's fields, and `rho`, `change_point` and `phase`."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text
    images = {
        key: tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png")
        for key, shape in sorted(layout.items())
        if len(shape) == 3
    }
    step: dict[str, Any] = {
        "observation": {**images, "proprio": tfds.features.Tensor(shape=layout["proprio"], dtype=np.float32)},
        "action": tfds.features.Tensor(shape=layout["action"], dtype=np.float32),
        "language_instruction": text(),
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
        "reward": np.float32,
        "discount": np.float32,
    }
    labels = {"rho": np.float32, "change_point": np.bool_, "phase": text()}
    step |= {key: feature for key, feature in labels.items() if key in layout}
    about = {"episode_id": text(), "file_path": text(), "success": np.bool_, "extra_json": text()}
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step), "episode_metadata": about})


def encode(episode: Episode) -> dict[str, Any]:
    """One episode as stacked arrays, images as PNG bytes: what TFDS' example serializer takes."""
    steps, text = len(episode), episode.language_instruction
    last = np.arange(steps) == steps - 1
    extra = plain(episode.metadata)
    names = {key: str(extra.pop(key, None) or "") for key in ("episode_id", "file_path")}
    images = {key: [encode_png(frame) for frame in frames] for key, frames in sorted(episode.images.items())}
    step: dict[str, Any] = {
        "observation": {**images, "proprio": np.asarray(episode.proprio, np.float32)},
        "action": np.asarray(episode.action, np.float32),
        "language_instruction": [text] * steps if isinstance(text, str) else list(text),
        "is_first": np.arange(steps) == 0,
        "is_last": last,
        "is_terminal": last & episode.success,
        "reward": (last & episode.success).astype(np.float32),
        "discount": np.ones(steps, np.float32),
    }
    if episode.rho is not None:
        step["rho"] = np.asarray(episode.rho, np.float32)
    if episode.change_point is not None:
        step["change_point"] = np.asarray(episode.change_point, bool)
    if episode.phase is not None:
        step["phase"] = np.asarray(episode.phase, str).tolist()
    about = {**names, "success": bool(episode.success), "extra_json": json.dumps(extra, sort_keys=True)}
    return {"steps": step, "episode_metadata": about}


def encode_png(image: np.ndarray) -> bytes:
    """Lossless; level 1 costs a third of the default's time and gives files about 10 % larger."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", compress_level=1)
    return stream.getvalue()


def content_hash(episodes: Sequence[Episode]) -> str:
    """Hash of all that episodes hold, for data that come from memory and have no file to name."""
    total = hashlib.sha256()
    for episode in episodes:
        for key, value in sorted(episode.arrays.items()):
            value = np.ascontiguousarray(np.asarray(value, str) if value.dtype.kind in "OT" else value)
            total.update(f"{key}{value.dtype}{value.shape}".encode() + value.tobytes())
        rest = [str(episode.language_instruction), bool(episode.success), plain(episode.metadata)]
        total.update(json.dumps(rest, sort_keys=True).encode())
    return total.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """The episodes `indices` of `source`, to become the file `path` of an unfinished dataset.

    A job is sent to a process or a Beam worker, so of episodes in memory it holds only its own. `labels` are those of
    each episode, or the annotator that finds them where the shard is written; None: the source's own, if it has any.
    """

    source: Sequence[Episode] | Mapping[int, Episode]
    indices: tuple[int, ...]
    labels: Sequence[Labels] | Annotator | None
    layout: Mapping[str, tuple[int, ...]]
    path: Path

    @property
    def account(self) -> Path:
        """What was written, once it is: bytes of the records, and states, actions and lengths of the episodes."""
        return self.path.with_name(f"{self.path.name}.npz")


def labelled(episode: Episode, labels: Sequence[Labels] | Annotator | None, position: int) -> Episode:
    """The episode with its labels."""
    if isinstance(labels, Sequence):
        return episode.replace(**labels[position])
    return episode if labels is None else with_rho(episode, labels)


Runner = Callable[[list[ShardJob]], Any]
"""Runs `write_shard` for each job."""


def plan_splits(episodes: int, val_fraction: float) -> dict[str, list[int]]:
    """Which episodes are in `train` and which in `val`; it depends on the two numbers alone.

    A share of val_fraction of the episodes, rounded, is validation, spread evenly; if there are two episodes or more,
    each split has at least one. What is fitted on the data asks this function for `train`.
    """
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}; it must be in [0, 1)")
    wanted = max(1, round(episodes * val_fraction)) if val_fraction > 0 else 0
    count = max(0, min(wanted, episodes - 1))
    held = {int((i + 0.5) * episodes / count) for i in range(count)}
    train = [i for i in range(episodes) if i not in held]
    return {"train": train} | ({"val": sorted(held)} if held else {})


def plan_shards(indices: Sequence[int], episode_bytes: int) -> list[tuple[int, ...]]:
    """Splits indices into runs of at most `SHARD_BYTES` of decoded data; independent of the number of workers."""
    size = int(np.clip(SHARD_BYTES // max(episode_bytes, 1), 1, MAX_EPISODES_PER_SHARD))
    return [tuple(indices[i : i + size]) for i in range(0, len(indices), size)]


def write_shard(job: ShardJob) -> Path:
    """Writes one TFRecord file and then its account; skips it if the account is there.

    Raises EpisodeError: an episode cannot be used, or has another layout than the dataset's first one.
    """
    if job.account.exists():
        return job.account
    import tensorflow as tf
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(features_of(job.layout).get_serialized_info())
    actions, proprios, size = [], [], 0
    with replacing(job.path) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for position, index in enumerate(job.indices):
                episode = labelled(job.source[index], job.labels, position).validate()
                if changed := differences(job.layout, layout_of(episode)):
                    raise EpisodeError(f"{episode.name} is unlike the first episode ({in_words(changed)})")
                record = serializer.get_tf_example(encode(episode)).SerializeToString(deterministic=True)
                writer.write(record)
                size += len(record)
                actions.append(episode.action)
                proprios.append(episode.proprio)
    lengths = np.array([len(a) for a in actions])
    with replacing(job.account) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, action=np.concatenate(actions), proprio=np.concatenate(proprios), lengths=lengths, bytes=size)
    return job.account


def run_on_beam(jobs: list[ShardJob], options: Any = (), runner: Any = None) -> None:
    """Writes the shards by a Beam pipeline; give it to `write_rlds(runner=…)`.

    A worker reads, labels and writes one shard at a time. Workers need this package, and the source and the data
    directory under the same paths (a shared file system).

    Args:
        options: Beam's flags (`["--runner=FlinkRunner", …]`) or its `PipelineOptions`; default: in this process.
        runner: a Beam runner; None lets the options decide.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    options = options if isinstance(options, PipelineOptions) else PipelineOptions(list(options or ()))
    with beam.Pipeline(runner=runner, options=options) as pipeline:
        (pipeline | "shards" >> beam.Create(jobs) | "spread" >> beam.Reshuffle() | "write" >> beam.Map(write_shard))
