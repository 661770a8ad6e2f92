"""Shards of TFRecords: which episodes go where, and writing one shard so that it is either whole or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import FOREIGN, finite, refusing, shown
from gap_vla.core.whole import clear_leftovers, replacing, write_json
from gap_vla.rlds.schema import Schema
from gap_vla.rlds.version_files import DatasetError, naming_a_full_disk

if TYPE_CHECKING:
    from gap_vla.phases import Annotator

SHARD_BYTES = 128 * 2**20
MAX_EPISODES_PER_SHARD = 32
MOST_BYTES = 2**31 - 1
"""Of one episode as it is stored: protobuf writes more, and reads none of it."""

KEPT = "finished shards are kept"
ACCOUNTS = "*.tfrecord-*.json"  # one beside every finished shard of an unfinished dataset


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


def plan_splits(episodes: int, val_fraction: float) -> dict[str, list[int]]:
    """Which episodes are in `train` and which in `val`; it depends on the two numbers alone.

    A share of val_fraction of the episodes, rounded, is validation, spread evenly; if there are two episodes or more,
    each split has at least one. What is fitted on the data asks this function for `train`.
    """
    if finite("val_fraction", val_fraction, 0, 1, DatasetError) == 1:
        raise DatasetError(f"val_fraction is {val_fraction}; it must be in [0, 1)")
    wanted = max(1, round(episodes * val_fraction)) if val_fraction > 0 else 0
    count = max(0, min(wanted, episodes - 1))
    held = {int((i + 0.5) * episodes / count) for i in range(count)}
    train = [i for i in range(episodes) if i not in held]
    return {"train": train} | ({"val": sorted(held)} if held else {})


def plan_shards(indices: Sequence[int], episode_bytes: int) -> list[tuple[int, ...]]:
    """Splits indices into runs of at most `SHARD_BYTES` of decoded data; independent of the number of workers."""
    size = int(np.clip(SHARD_BYTES // max(episode_bytes, 1), 1, MAX_EPISODES_PER_SHARD))
    return [tuple(indices[i : i + size]) for i in range(0, len(indices), size)]


def write_shard(job: ShardJob) -> dict[str, Any]:
    """Writes one TFRecord file and its account (`<path>.json`, `<path>.npz`) last, and returns it, `{"episodes": n,
    "bytes": size, …}`; skips it if the account is there. Raises DatasetError: the disk is full; EpisodeError: an
    episode that does not fit the dataset."""
    account_path = Path(f"{job.path}.json")
    with contextlib.suppress(*FOREIGN):  # not there, or cut as by a loss of power: then the shard is written
        account = json.loads(account_path.read_text())
        kept = dict(np.load(f"{job.path}.npz"))  # all of it, so that damage shows
        if len(kept["lengths"]) == account["episodes"] and job.path.stat().st_size == account["file_bytes"]:
            return account
    with naming_a_full_disk(job.path.parent, KEPT):
        return _write(job, account_path)


def remove_accounts(directory: Path) -> None:
    """Removes what `write_shard`, killed or not, left beside the shards, once the dataset's own description says it."""
    clear_leftovers(directory)
    for path in [*directory.glob(ACCOUNTS), *directory.glob("*.tfrecord-*.npz")]:
        path.unlink()


def _write(job: ShardJob, account_path: Path) -> dict[str, Any]:
    import tensorflow as tf
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(job.schema.features().get_serialized_info())
    actions, proprios, payload = [], [], 0
    with replacing(job.path) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for position, index in enumerate(job.indices):
                episode = job.source[index]
                if job.labels is not None:
                    episode = episode.replace(**job.labels[position])
                with refusing(f"{episode.name}: cannot be stored", "give text that UTF-8 can hold", EpisodeError):
                    example = serializer.get_tf_example(job.schema.encode(episode.validate()))
                record = example.SerializeToString(deterministic=True)
                if len(record) > MOST_BYTES:
                    raise EpisodeError(
                        f"{episode.name}: {len(record):,} bytes with its pictures compressed, a record holds "
                        f"{MOST_BYTES:,}; make the pictures smaller, or several episodes of it"
                    )
                writer.write(record)
                payload += len(record)
                actions.append(episode.action)
                proprios.append(episode.proprio)
        lengths = np.array([len(a) for a in actions])
        with open(f"{job.path}.npz", "wb") as stream:
            np.savez(stream, action=np.concatenate(actions), proprio=np.concatenate(proprios), lengths=lengths)
        size = temporary.stat().st_size
    account = {"episodes": len(job.indices), "bytes": payload, "file_bytes": size}
    write_json(account_path, account)
    return account


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

    def __call__(self, jobs: list[ShardJob]) -> list[dict[str, Any]]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        options = (
            self.options if isinstance(self.options, PipelineOptions) else PipelineOptions(list(self.options or ()))
        )
        with refusing("the flags of --beam", "give those of a runner of Apache Beam", DatasetError):
            stated, known = (options.get_all_options(retain_unknown_options=kept) for kept in (True, False))
            here = not (self.runner or known["runner"])  # a runner has flags that Beam does not know
            if here and (odd := sorted({*stated} - {*known})):
                raise DatasetError(
                    f"--beam {odd[0]} is no flag of Beam, and no runner is named; name one, or correct it"
                )
            prepared = beam.Pipeline(runner=self.runner, options=options)
        with prepared as pipeline:
            (
                pipeline
                | "shards" >> beam.Create(jobs)
                | "spread" >> beam.Reshuffle()
                | "write" >> beam.Map(_on_a_worker)
            )
        return [write_shard(job) for job in jobs]  # every account is on disk: this only reads them


def _on_a_worker(job: ShardJob) -> dict[str, Any]:
    try:
        return write_shard(job)
    except UserError as error:
        vars(error)["_tagged_with_step"] = True  # Beam raises it as it is, and prints no traceback before it
        raise


def with_rho(episode: Episode, annotator: Annotator) -> Episode:
    """The episode with the ρ and change points of a fitted annotator (`gap_vla.phases.annotate(...).annotator`,
    `load_annotator(...)`); in a Beam pipeline of your own, `Map(with_rho, annotator)`."""
    if not hasattr(annotator, "annotate"):
        what = "give annotate(...).annotator or load_annotator(FOLDER)"
        raise EpisodeError(f"annotator is {shown(annotator)}; {what}")
    return annotator.annotate([episode], workers=1).apply([episode])[0]
