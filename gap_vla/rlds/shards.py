"""Shards of TFRecords: which episodes go where, and writing one shard so that it is either whole or absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError
from gap_vla.core.files import replacing
from gap_vla.rlds.schema import Schema

if TYPE_CHECKING:
    from gap_vla.phases import Annotator

SHARD_BYTES = 128 * 2**20
MAX_EPISODES_PER_SHARD = 32


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """The episodes `indices` of `source` in the layout `schema`, to become the file `path` of an unfinished dataset;
    small enough to be sent to a process or a Beam worker.

    `labels` (`rho` and `change_point` per episode) are kept apart from the source, so that images are read once, where
    they are written; None for sources that carry them (or have none).
    """

    source: Sequence[Episode]
    indices: tuple[int, ...]
    labels: tuple[Mapping[str, np.ndarray], ...] | None
    schema: Schema
    path: Path

    @property
    def account(self) -> Path:
        """What was written, once it is: bytes of the records, and states, actions and lengths of the episodes."""
        return self.path.with_name(f"{self.path.name}.npz")


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
    """Writes one TFRecord file and then its account; skips it if the account is there."""
    if job.account.exists():
        return job.account
    import tensorflow as tf
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(job.schema.features().get_serialized_info())
    actions, proprios, size = [], [], 0
    with replacing(job.path) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for position, index in enumerate(job.indices):
                episode = job.source[index]
                if job.labels is not None:
                    episode = episode.replace(**job.labels[position])
                example = serializer.get_tf_example(job.schema.encode(episode.validate()))
                record = example.SerializeToString(deterministic=True)
                writer.write(record)
                size += len(record)
                actions.append(episode.action)
                proprios.append(episode.proprio)
    lengths = np.array([len(a) for a in actions])
    with replacing(job.account) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, action=np.concatenate(actions), proprio=np.concatenate(proprios), lengths=lengths, bytes=size)
    return job.account


class BeamRunner:
    """Runs shard jobs as a Beam pipeline; give it to `write_rlds(runner=…)`.

    Each job reads its own episodes, labels them if its source carries an annotator, and writes one shard, so a
    worker's memory is bounded by one shard. Finished shards are skipped when an interrupted pipeline runs again.
    Workers need the same package, and the source and the data directory under the same path (a shared file system).

    Args:
        options: Beam's flags (`["--runner=FlinkRunner", …]`) or its `PipelineOptions`; default: in this process.
        runner: a Beam runner, or None to let the options decide.
    """

    def __init__(self, options: Sequence[str] | Any = (), runner: Any = None) -> None:
        self.options, self.runner = options, runner

    def __call__(self, jobs: list[ShardJob]) -> None:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        options = self.options
        options = options if isinstance(options, PipelineOptions) else PipelineOptions(list(options or ()))
        with beam.Pipeline(runner=self.runner, options=options) as pipeline:
            (pipeline | "shards" >> beam.Create(jobs) | "spread" >> beam.Reshuffle() | "write" >> beam.Map(write_shard))


def with_rho(episode: Episode, annotator: Annotator) -> Episode:
    """The episode with the ρ and change points of a fitted annotator (`gap_vla.phases.annotate(...).annotator`,
    `load_annotator(...)`); in a Beam pipeline of your own, `Map(with_rho, annotator)`."""
    return annotator.annotate([episode], workers=1).apply([episode])[0]
