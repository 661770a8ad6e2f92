"""Episodes to a TFDS dataset on disk: sharded, parallel, resumable, and never half-finished under its final name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.episode import LABELS, PROPRIO_PER_ARM, Episode, EpisodeError
from gap_vla.core.foreign import refusing, whole
from gap_vla.core.identity import plain
from gap_vla.core.outputs import require_apart
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import watched
from gap_vla.core.resources import require_disk
from gap_vla.demos.source import Source
from gap_vla.phases.measures import beyond_reach
from gap_vla.phases.motion import UNIT_QUATERNION_TOLERANCE
from gap_vla.rlds.checking.dataset_checks import tell_duplicates
from gap_vla.rlds.schema import SCHEMA_VERSION, Schema, content_hash, labels_hash
from gap_vla.rlds.shards import KEPT, ShardJob, plan_shards, plan_splits, write_shard
from gap_vla.rlds.statistics import dataset_statistics, save_statistics
from gap_vla.rlds.target import DESCRIPTION, MODULE, as_recorded, check_names, describe, finish, unfinished
from gap_vla.rlds.version_files import DatasetError, naming_a_full_disk

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
    labels: Iterable[Mapping[str, np.ndarray]] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    runner: Runner | None = None,
    companion: Callable[[Path], Any] | None = None,
    module: str = MODULE,
    description: str = DESCRIPTION,
) -> Path:
    """Writes episodes as the RLDS dataset `data_dir/name/version`, readable by plain TFDS.

    The dataset appears under its name only when it is complete (shards, statistics, metadata); until then it is
    `data_dir/name/.version.partial`, and the same call after an interruption continues with the missing shards.

    Args:
        episodes: `gap_vla.demos.open_source(...)`, whose episodes are read one at a time, or any that are in memory.
            All have the same cameras, sizes and widths.
        data_dir: TFDS data directory.
        name, version: of the dataset (small letters, digits, underscores), and `major.minor.patch`.
        val_fraction: share of episodes in the split `val`, chosen evenly over the sequence.
        annotator: identity of what computed ρ (`Annotation.identity`); kept in `metadata.json`.
        identity: what the data are made from. Default: `source.identity()`, or a hash of the episodes in memory.
        labels: `rho` and `change_point` per episode (`Annotation.labels`), for sources that do not carry them. Other
            labels make another dataset, but with a `companion`.
        workers: processes that write shards (only for sources on disk; a list is written in this process).
        overwrite: replace an existing different dataset.
        runner: runs the shard jobs elsewhere (see `BeamRunner`).
        companion: called with the unfinished version directory, to put an annotator into its folder `annotator`.
        module, description: of the builder class that writes the dataset, for its `dataset_info.json`.

    Returns:
        The version directory. An existing dataset with the same identity is returned as it is.

    Raises:
        DatasetError: a different dataset of this name and version exists (says what differs), the disk is full, or
            there is an annotator, but no ρ.
        EpisodeError: an episode that cannot be used; nothing appears under the final name.
        ResourceError: the disk has less room than the episodes will take.
        OutputError: the dataset would lie in the folder of its demonstrations.
    """
    check_names(name, version)
    whole("workers", workers, 1, 1024, DatasetError)
    path = Path(data_dir) / name / version
    episodes = episodes if isinstance(episodes, Sequence) else list(episodes)
    if identity is None and isinstance(episodes, Source):
        require_apart(path, episodes.path)
        identity = episodes.identity()
    elif identity is None:
        with refusing("episodes", "give a list of Episode, with texts for names in their metadata", EpisodeError):
            identity = {"content": content_hash(episodes)}
    if labels is not None:
        labels = labels if isinstance(labels, Sequence) else list(labels)
        _require_labels(labels, len(episodes))
        if companion is None:  # which goes with the labels of `build_dataset`, that its annotator and the data make
            with refusing("labels", "give an array of numbers and one of truth values of each episode", DatasetError):
                identity = {**identity, "labels_hash": labels_hash(labels)}
    stated = {
        "name": name,
        "version": version,
        "val_fraction": plain(val_fraction, "val_fraction", DatasetError),
        "schema_version": SCHEMA_VERSION,
        "annotator": plain(dict(annotator or {}), "annotator", DatasetError),
        "data": plain(dict(identity), "identity", DatasetError),
    }
    settings = as_recorded(stated)
    with unfinished(path, settings, overwrite) as partial, naming_a_full_disk(path.parent, KEPT):
        if partial is None:
            return path
        unchanged = getattr(episodes, "unchanged", None) or (lambda: None)
        try:
            lengths, sizes, schema = _write_all(episodes, labels, partial, settings, workers, runner)
        except EpisodeError:
            unchanged()  # if it changed, that is the reason
            raise
        describe(partial, settings, schema, lengths, sizes, module=module, description=description)
        if companion is not None:
            companion(partial)
        unchanged()
        return finish(partial, path, overwrite)


def _require_labels(labels: Sequence[Mapping[str, np.ndarray]], episodes: int) -> None:
    """Raises DatasetError: not those of each episode."""
    if len(labels) != episodes:
        raise DatasetError(f"{len(labels)} labels for {episodes} episodes")
    for place, one in enumerate(labels):
        names = [*map(str, one)] if isinstance(one, Mapping) else [type(one).__name__]
        if {*names} != {*LABELS}:
            told = ", ".join(names) or "none"
            raise DatasetError(f"labels of episode {place} are {told}; give {' and '.join(LABELS)} of each")


def _write_all(
    episodes: Sequence[Episode],
    labels: Sequence[Mapping[str, np.ndarray]] | None,
    partial: Path,
    settings: Mapping[str, Any],
    workers: int,
    runner: Runner | None,
) -> tuple[dict[str, list[int]], list[int], Schema]:
    """Writes shards and statistics; returns episodes per shard of each split, bytes per shard, and the layout."""
    if len(episodes) == 0:
        raise EpisodeError("no episodes to write")
    first = episodes[0].validate()
    if labels is not None:
        first = first.replace(**labels[0])
    if settings["annotator"] and first.rho is None:
        raise DatasetError("an annotator is given, but no rho; give its labels, too, or leave it out")
    schema = Schema.of(first)
    if not (schema.proprio_dim and schema.action_dim):
        raise EpisodeError(
            f"{first.name}: no column of {'action' if schema.proprio_dim else 'proprio'}; give one or more"
        )
    size = sum(image.nbytes for image in first.images.values()) + first.proprio.nbytes
    jobs: dict[str, list[ShardJob]] = {}
    lengths = {}
    for split, indices in plan_splits(len(episodes), settings["val_fraction"]).items():
        shards = plan_shards(indices, size)
        lengths[split] = [len(s) for s in shards]
        jobs[split] = []
        for i, shard in enumerate(shards):
            path = partial / f"{settings['name']}-{split}.tfrecord-{i:05d}-of-{len(shards):05d}"
            own = tuple(labels[j] for j in shard) if labels is not None else None
            job = ShardJob(episodes, shard, own, schema, path)
            if isinstance(episodes, list | tuple):  # a job is sent with its own alone
                job = ShardJob([episodes[j] for j in shard], tuple(range(len(shard))), own, schema, path)
            jobs[split].append(job)
    every = [job for of_split in jobs.values() for job in of_split]
    left = sum(len(job.indices) for job in every if not Path(f"{job.path}.json").exists())
    require_disk({f"{left} episodes, compressed": left * size / 3}, partial, "lower their number or size")
    progress = f"write {settings['name']}", len(every), "shard"
    if runner is not None:
        accounts = runner(every)
    elif workers > 1 and isinstance(episodes, Source) and size * len(episodes) > _WORTH_PROCESSES:
        with worker_pool(workers) as pool:
            accounts = watched(pool.map(write_shard, every), *progress)
    else:
        accounts = watched(map(write_shard, every), *progress)
    written = {split: [pair for job in of_split for pair in _motions(job)] for split, of_split in jobs.items()}
    named = ((f"{split}[{i}]", *one) for split, pairs in written.items() for i, one in enumerate(pairs))
    tell_duplicates(named, ", gap-vla check-dataset lists them")
    if labels is None and schema.rho and schema.proprio_dim % PROPRIO_PER_ARM == 0:  # else asked with the labels
        states = (p.reshape(-1, PROPRIO_PER_ARM).astype(np.float64) for pairs in written.values() for _, p in pairs)
        if asked := beyond_reach(max(map(_farthest, states))):
            print(f"note: {asked}", flush=True)
    actions, proprios = map(list, zip(*written["train"], strict=True))
    save_statistics(dataset_statistics(actions, proprios), partial / "dataset_statistics.json")
    return lengths, [account["bytes"] for account in accounts], schema


def _farthest(arms: Float[np.ndarray, "N 9"]) -> float:
    """Distance from the origin of the position that is farthest away; of joints, which hold no quaternion, 0."""
    poses = np.abs(np.linalg.norm(arms[:, 3:7], axis=1) - 1) <= UNIT_QUATERNION_TOLERANCE
    return float(np.linalg.norm(arms[poses, :3], axis=1).max(initial=0))


def _motions(job: ShardJob) -> list[tuple[np.ndarray, np.ndarray]]:
    """Actions and proprioception of each episode of a written shard."""
    table = np.load(f"{job.path}.npz")
    borders = np.cumsum(table["lengths"])[:-1]
    return list(zip(np.split(table["action"], borders), np.split(table["proprio"], borders), strict=True))
