"""Episodes to a TFDS dataset on disk: sharded, parallel, resumable, and never half-finished under its final name."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.atomic import write_json
from gap_vla.demos.source import Source
from gap_vla.episode import Episode, EpisodeError
from gap_vla.identity import digest
from gap_vla.rlds.identity import content_hash, differences
from gap_vla.rlds.reader import dataset_metadata
from gap_vla.rlds.schema import SCHEMA_VERSION, Schema
from gap_vla.rlds.shards import DatasetError, Labels, ShardJob, plan_shards, plan_splits, write_shard
from gap_vla.rlds.spool import spool
from gap_vla.rlds.statistics import dataset_statistics, save_statistics

_WORTH_PROCESSES = 256 * 2**20
"""Decoded bytes from which on starting processes (each loads TensorFlow) pays."""

Runner = Callable[[list[ShardJob]], list[dict[str, Any]]]


def write_rlds(
    episodes: Sequence[Episode] | Iterable[Episode],
    data_dir: str | Path,
    name: str,
    *,
    version: str = "1.0.0",
    val_fraction: float = 0.1,
    annotator: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    labels: Sequence[Labels] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    runner: Runner | None = None,
    companion: Callable[[Path], None] | None = None,
) -> Path:
    """Writes episodes as the RLDS dataset `data_dir/name/version`, readable by plain TFDS.

    The dataset appears under its name only when it is complete (shards, statistics, metadata); until then it is
    `data_dir/name/.version.partial`, and the same call after an interruption continues with the missing shards.

    Args:
        episodes: a sequence (`gap_vla.demos.open_source(...)` or a list), or any iterable, which is spooled to
            disk first. All episodes have the same cameras, sizes and widths.
        data_dir: TFDS data directory.
        name: dataset name (letters, digits, underscores).
        version: `major.minor.patch`.
        val_fraction: share of episodes in the split `val`, chosen evenly over the sequence.
        annotator: identity of what computed ρ (`Annotation.identity`); kept in `metadata.json`.
        identity: what the data are made from. Default: `source.identity()`, or a hash of the episodes in memory.
        labels: ρ and change points per episode, for sources that do not carry them.
        workers: processes that write shards (only for sources on disk; a list is written in this process).
        overwrite: replace an existing different dataset.
        runner: runs the shard jobs elsewhere (see `gap_vla.rlds.beam`).
        companion: called with the unfinished version directory, to put more files beside the shards.

    Returns:
        The version directory. An existing dataset with the same identity is returned as it is.

    Raises:
        DatasetError: a different dataset of this name and version exists (says what differs), or the disk is full.
        EpisodeError: an episode that cannot be used; nothing appears under the final name.
    """
    if not name.isidentifier():
        raise DatasetError(f"dataset name {name!r}: use letters, digits and underscores")
    home = Path(data_dir) / name
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / f".{version}.lock"), contextlib.ExitStack() as stack:
        if not isinstance(episodes, Sequence):
            episodes = spool(
                episodes, Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home, prefix=".spool")))
            )
        if identity is None:
            identity = episodes.identity() if isinstance(episodes, Source) else {"content": content_hash(episodes)}
        settings = json.loads(
            json.dumps(
                {
                    "name": name,
                    "version": version,
                    "val_fraction": val_fraction,
                    "schema_version": SCHEMA_VERSION,
                    "annotator": dict(annotator or {}),
                    "data": dict(identity),
                },
                default=str,
            )
        )
        target = home / version
        if target.exists():
            if _same(target, settings):
                return target
            if not overwrite:
                raise DatasetError(_different(target, settings))
        partial = home / f".{version}.partial"
        _prepare(partial, settings)
        _write_all(episodes, labels, partial, settings, workers, runner)
        if companion is not None:
            companion(partial)
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
        return target


def _same(target: Path, settings: Mapping[str, Any]) -> bool:
    return dataset_metadata(target).get("identity_hash") == digest(settings, 16)


def _different(target: Path, settings: Mapping[str, Any]) -> str:
    recorded = dataset_metadata(target)
    if not recorded:
        return f"{target} exists and was not written by gap_vla; choose another name or version"
    lines = "\n  ".join(differences(recorded["identity"], settings))
    return f"{target} exists and was made differently:\n  {lines}\nchoose another name or version, or overwrite it"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer per dataset version; the kernel releases the lock of a killed process."""
    with open(path, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f"{path.parent}: another process is writing this dataset; wait for it") from None
        yield
    path.unlink(missing_ok=True)


def _prepare(partial: Path, settings: Mapping[str, Any]) -> None:
    mark = partial / "settings.json"
    if partial.exists() and not (mark.exists() and json.loads(mark.read_text()) == settings):
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    write_json(mark, settings)


def _write_all(
    episodes: Sequence[Episode],
    labels: Sequence[Labels] | None,
    partial: Path,
    settings: dict[str, Any],
    workers: int,
    runner: Runner | None,
) -> None:
    if len(episodes) == 0:
        raise EpisodeError("no episodes to write")
    if labels is not None and len(labels) != len(episodes):
        raise DatasetError(f"{len(labels)} labels for {len(episodes)} episodes")
    first = episodes[0].validate()
    if labels is not None:
        first = first.replace(rho=labels[0].rho, change_point=labels[0].change_point)
    schema = Schema.of(first)
    size = sum(image.nbytes for image in first.images.values()) + first.proprio.nbytes
    jobs, lengths = [], {}
    for split, indices in plan_splits(len(episodes), settings["val_fraction"]).items():
        shards = plan_shards(indices, size)
        lengths[split] = [len(s) for s in shards]
        for i, shard in enumerate(shards):
            path = partial / f"{settings['name']}-{split}.tfrecord-{i:05d}-of-{len(shards):05d}"
            own = tuple(labels[j] for j in shard) if labels is not None else None
            jobs.append(ShardJob(episodes, shard, own, schema, path))
    if runner is not None:
        accounts = runner(jobs)
    elif workers > 1 and isinstance(episodes, Source) and size * len(episodes) > _WORTH_PROCESSES:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            accounts = list(pool.map(write_shard, jobs))
    else:
        accounts = [write_shard(job) for job in jobs]
    _finish(partial, jobs, accounts, lengths, schema, settings)


def _finish(
    partial: Path,
    jobs: list[ShardJob],
    accounts: list[dict[str, Any]],
    lengths: dict[str, list[int]],
    schema: Schema,
    settings: dict[str, Any],
) -> None:
    tables = [np.load(f"{job.path}.npz") for job in jobs]
    actions = [part for t in tables for part in np.split(t["action"], np.cumsum(t["lengths"])[:-1])]
    proprios = [part for t in tables for part in np.split(t["proprio"], np.cumsum(t["lengths"])[:-1])]
    save_statistics(dataset_statistics(actions, proprios), partial / "dataset_statistics.json")
    _write_tfds_info(partial, schema, settings, lengths, accounts)
    metadata = {
        "identity": settings,
        "identity_hash": digest(settings, 16),
        "annotator": settings["annotator"],
        "schema": schema.to_json(),
    }
    write_json(partial / "metadata.json", metadata)
    for job in jobs:
        os.unlink(f"{job.path}.json")
        os.unlink(f"{job.path}.npz")
    (partial / "settings.json").unlink()


def _write_tfds_info(
    partial: Path,
    schema: Schema,
    settings: dict[str, Any],
    lengths: dict[str, list[int]],
    accounts: list[dict[str, Any]],
) -> None:
    import tensorflow_datasets as tfds

    remaining = iter(accounts)
    splits = []
    for split, shard_lengths in lengths.items():
        total = sum(next(remaining)["bytes"] for _ in shard_lengths)
        splits.append(tfds.core.SplitInfo(name=split, shard_lengths=shard_lengths, num_bytes=total))
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=settings["name"],
        version=tfds.core.Version(settings["version"]),
        data_dir=str(partial),
        module_name="gap_vla.rlds",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Robot demonstrations in RLDS with the motion-transition probability rho per step.",
        features=schema.features(),
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(str(partial))
