"""Demonstrations to an RLDS dataset with ρ in one call: read, annotate, write, and keep the annotator beside the data.

A dataset is made in `data_dir/name/.version.partial` and renamed when it is complete. The same call after an
interruption continues with the missing shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError
from gap_vla.core.files import claim, file_lock, mark, put, read_json, remove, write_json
from gap_vla.core.identity import differences, digest, in_words, plain
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import watched
from gap_vla.demos.source import Labels, Source
from gap_vla.rlds.annotate import annotation_of, spread
from gap_vla.rlds.shards import (
    SCHEMA_VERSION,
    Runner,
    ShardJob,
    content_hash,
    features_of,
    labelled,
    layout_of,
    plan_shards,
    plan_splits,
    write_shard,
)
from gap_vla.rlds.source import dataset_metadata
from gap_vla.rlds.statistics import STATISTICS, dataset_statistics, save_statistics

if TYPE_CHECKING:
    from gap_vla.phases import Annotator

DESCRIPTION = "Robot demonstrations in RLDS with the motion-transition probability rho per step."

_WORTH_PROCESSES = 256 * 2**20
"""Decoded bytes from which on starting processes (each loads TensorFlow) pays."""


def build_dataset(
    source: Source,
    data_dir: str | Path,
    name: str,
    *,
    version: str = "1.0.0",
    method: str = "lstm",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    annotator: str | Path | None = None,
    fit_episodes: int | None = None,
    val_fraction: float = 0.1,
    identity: Mapping[str, Any] | None = None,
    workers: int = 2,
    overwrite: bool = False,
    runner: Runner | None = None,
) -> Path:
    """Annotates demonstrations with ρ and writes them as the RLDS dataset `data_dir/name/version`.

    Which episodes are validation is decided first (`plan_splits`); everything that is fitted, the annotator and the
    statistics for normalisation, sees the split `train` alone.

    Args:
        source: `gap_vla.demos.open_source(...)`, of any format.
        data_dir, name, version, val_fraction, overwrite, runner: of `write_rlds`.
        method, seed, options: of `gap_vla.phases.annotate`; the method `"none"` writes a dataset without ρ.
        annotator: folder of a saved annotator: label with it, fit nothing.
        fit_episodes: fit the annotator on this many episodes of `train`, spread evenly, and label the rest where they
            are written; for data whose proprioception does not fit into memory. Default: on the whole split.
        identity: what the data are made from; default: `source.identity()`.
        workers: processes.

    Returns:
        The version directory; it holds the annotator in `annotator/`. An existing dataset made from the same data with
        the same settings is returned without annotating again.
    """
    from gap_vla import phases
    from gap_vla.phases.measures import describe

    fitted = phases.load_annotator(annotator) if annotator is not None else None
    wanted: dict[str, Any] = {"method": method, "seed": seed, "options": dict(options or {})}
    if fitted is not None:
        wanted = {"annotator": fitted.identity}
    elif fit_episodes is not None:
        wanted["fit_episodes"] = fit_episodes
    if fitted is not None or method != "none":
        wanted["labels_version"] = phases.LABELS_VERSION
    data = {**(source.identity() if identity is None else identity), "annotation": wanted}
    path = Path(data_dir) / name / version
    if _is_made(path, _settings(name, version, val_fraction, data), overwrite, source):
        return path
    print(source.account(), flush=True)
    labels: Sequence[Labels] | Annotator | None = fitted
    if fitted is None and method != "none":
        train = plan_splits(len(source), val_fraction)["train"]
        few = 1 if workers == 1 else None  # otherwise the annotator decides: processes cost more than a small dataset
        how: dict[str, Any] = {"method": method, "seed": seed, "workers": few}
        if fit_episodes is None:
            annotation = annotation_of(source, options=options, fit=train, **how)
            labels = [annotation.labels(i) for i in range(len(source))]
        else:
            some = (source.read(train[i], images=False) for i in spread(len(train), fit_episodes))
            annotation = phases.annotate(some, **how, **(options or {}))
            labels = annotation.annotator
        fitted = annotation.annotator
        print(*describe(annotation.report), sep="\n", flush=True)
    return write_rlds(
        source,
        data_dir,
        name,
        version=version,
        val_fraction=val_fraction,
        annotator=fitted,
        identity=data,
        labels=labels,
        workers=workers,
        overwrite=overwrite,
        runner=runner,
    )


def write_rlds(
    episodes: Iterable[Episode],
    data_dir: str | Path,
    name: str,
    *,
    version: str = "1.0.0",
    val_fraction: float = 0.1,
    annotator: Annotator | None = None,
    identity: Mapping[str, Any] | None = None,
    labels: Sequence[Labels] | Annotator | None = None,
    workers: int = 1,
    overwrite: bool = False,
    runner: Runner | None = None,
) -> Path:
    """Writes episodes as the RLDS dataset `data_dir/name/version`, readable by plain TFDS.

    Args:
        episodes: `gap_vla.demos.open_source(...)`, whose episodes are read one at a time, or any that are in memory.
            All have the same cameras, sizes and widths.
        data_dir: TFDS data directory.
        name, version: of the dataset, as TFDS wants them (small letters, digits, underscores; `major.minor.patch`).
        val_fraction: share of episodes in the split `val`, chosen evenly over the sequence.
        annotator: what computed ρ; it is saved in `annotator/`, and its identity in `metadata.json`.
        identity: what the data are made from. Default: `source.identity()`, or a hash of the episodes in memory.
        labels: `rho` and `change_point` per episode (`Annotation.labels`), or the annotator that finds them when an
            episode is written, for sources that do not carry them.
        workers: processes that write shards (only for sources on disk; a list is written in this process).
        overwrite: replace an existing different dataset.
        runner: runs the shard jobs elsewhere (see `gap_vla.rlds.shards.run_on_beam`).

    Returns:
        The version directory. An existing dataset with the same identity is returned as it is.

    Raises:
        UserError: a different dataset of this name and version exists (says what differs).
        EpisodeError: an episode that cannot be used; nothing appears under the final name.
    """
    path = Path(data_dir) / name / version
    episodes = episodes if isinstance(episodes, Sequence) else list(episodes)
    if identity is None:
        identity = episodes.identity() if isinstance(episodes, Source) else {"content": content_hash(episodes)}
    settings = _settings(name, version, val_fraction, identity)
    settings["annotator"] = plain(annotator.identity) if annotator is not None else {}
    if _is_made(path, settings, overwrite, episodes):
        return path
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(f".{path.name}.lock"), str(path)):
        begun = partial / "settings.json"
        if not begun.exists() or read_json(begun) != settings:
            remove(partial)
            partial.mkdir()
            write_json(begun, settings)
        first = labelled(episodes[0].validate(), labels, 0)
        jobs = _write_shards(episodes, labels, first, partial, settings, workers, runner)
        accounts = {split: [np.load(job.account) for job in of_split] for split, of_split in jobs.items()}
        _describe(partial, settings, features_of(layout_of(first)), accounts)
        metadata = {"identity": settings, "identity_hash": digest(settings, 16), "annotator": settings["annotator"]}
        described = {"proprio": first.columns, "action": first.action_columns}
        columns = {key: str(one) for key, one in described.items() if one}
        write_json(partial / "metadata.json", {**metadata, "columns": columns})
        actions, proprios = ([one[key] for one in accounts["train"]] for key in ("action", "proprio"))
        statistics = dataset_statistics(actions, proprios, first.action_columns)
        statistics["num_trajectories"] = sum(len(one["lengths"]) for one in accounts["train"])
        save_statistics(statistics, partial / STATISTICS)
        if annotator is not None:
            annotator.save(partial / "annotator")
        for leftover in [begun, *(job.account for of_split in jobs.values() for job in of_split)]:
            leftover.unlink()
        mark(partial, "dataset")
        put(partial, path)
    return path


def _settings(name: str, version: str, val_fraction: float, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataset is made from, as JSON holds it."""
    stated = {"name": name, "version": version, "val_fraction": val_fraction, "schema_version": SCHEMA_VERSION}
    return json.loads(json.dumps({**stated, "data": plain(data)}))  # type: ignore[no-any-return]


def _is_made(path: Path, settings: Mapping[str, Any], overwrite: bool, source: Sequence[Episode]) -> bool:
    """Whether the dataset is there. Raises UserError: one that was made differently is, or `path` is in its source."""
    metadata = dataset_metadata(path)
    recorded = {key: metadata.get("identity", {}).get(key) for key in settings}
    if recorded == settings and "labelled_from" not in metadata:
        return True
    if metadata and not overwrite:
        changed = in_words(differences(recorded, settings)) or "it is an annotated copy"
        raise UserError(f"{path} exists and was made differently ({changed}); choose another name, or overwrite it")
    claim(path, overwrite=overwrite, kind="dataset", sources=[source.path] if isinstance(source, Source) else [])
    return False


def _write_shards(
    episodes: Sequence[Episode],
    labels: Sequence[Labels] | Annotator | None,
    first: Episode,
    partial: Path,
    settings: Mapping[str, Any],
    workers: int,
    runner: Runner | None,
) -> dict[str, list[ShardJob]]:
    """Writes the shards; returns the jobs of each split."""
    layout = layout_of(first)
    size = sum(image.nbytes for image in first.images.values()) + first.proprio.nbytes
    splits: dict[str, list[ShardJob]] = {}
    for split, indices in plan_splits(len(episodes), settings["val_fraction"]).items():
        shards, splits[split] = plan_shards(indices, size), []
        for i, shard in enumerate(shards):
            path = partial / f"{settings['name']}-{split}.tfrecord-{i:05d}-of-{len(shards):05d}"
            own = [labels[j] for j in shard] if isinstance(labels, Sequence) else labels
            held = episodes if isinstance(episodes, Source) else {j: episodes[j] for j in shard}
            splits[split].append(ShardJob(held, shard, own, layout, path))
    jobs = [job for of_split in splits.values() for job in of_split]
    progress = f"write {settings['name']}", len(jobs), "shard"
    if runner is not None:
        runner(jobs)
    elif workers > 1 and isinstance(episodes, Source) and size * len(episodes) > _WORTH_PROCESSES:
        with worker_pool(workers) as pool:
            list(watched(pool.map(write_shard, jobs), *progress))
    else:
        list(watched(map(write_shard, jobs), *progress))
    return splits


def _describe(
    partial: Path, settings: Mapping[str, Any], features: Any, accounts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Writes TFDS' `dataset_info.json` and `features.json`."""
    import tensorflow_datasets as tfds

    splits = []
    for split, shards in accounts.items():
        lengths, size = [len(one["lengths"]) for one in shards], sum(int(one["bytes"]) for one in shards)
        splits.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size))
    version = tfds.core.Version(settings["version"])
    builder = tfds.core.dataset_info.DatasetIdentity(
        settings["name"], version, str(partial), module_name="gap_vla.rlds"
    )
    info = tfds.core.DatasetInfo(builder=builder, description=DESCRIPTION, features=features)
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(str(partial))
