"""Demonstrations to an RLDS dataset with ρ in one call: read, annotate, write, and keep the annotator beside the data.

A dataset is made in `data_dir/name/.version.partial` and renamed when it is complete. The same call after an
interruption continues with the missing shards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError, EpisodeError, UserError
from gap_vla.core.files import claim, file_lock, mark, put, read_json, remove, write_json
from gap_vla.core.identity import differences, digest, in_words, plain
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import watched
from gap_vla.demos.source import Source
from gap_vla.rlds.records import dataset_metadata
from gap_vla.rlds.schema import SCHEMA_VERSION, Schema, content_hash
from gap_vla.rlds.shards import Runner, ShardJob, plan_shards, plan_splits, with_rho, write_shard
from gap_vla.rlds.statistics import STATISTICS, dataset_statistics, save_statistics

if TYPE_CHECKING:
    from gap_vla.phases import Annotation, Annotator

DESCRIPTION = "Robot demonstrations in RLDS with the motion-transition probability rho per step."
MODULE = "gap_vla.rlds"
"""What a dataset says of its origin if it was not written by a TFDS builder class."""

_WORTH_PROCESSES = 256 * 2**20
"""Decoded bytes from which on starting processes (each loads TensorFlow) pays."""

Labels = Sequence[Mapping[str, np.ndarray]]


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
    **write_options: Any,
) -> Path:
    """Annotates demonstrations with ρ and writes them as the RLDS dataset `data_dir/name/version`.

    Which episodes are validation is decided first (`plan_splits`); everything that is fitted, the annotator and the
    statistics for normalisation, sees the split `train` alone.

    Args:
        source: `gap_vla.demos.open_source(...)`, of any format.
        data_dir, name, version, val_fraction, overwrite: of `write_rlds`.
        method, seed, options: of `gap_vla.phases.annotate`; the method `"none"` writes a dataset without ρ.
        annotator: folder of a saved annotator: label with it, fit nothing.
        fit_episodes: fit the annotator on this many episodes of `train`, spread evenly, and label the rest where they
            are written; for data whose proprioception does not fit into memory. Default: on the whole split.
        identity: what the data are made from; default: `source.identity()`.
        workers: processes.
        **write_options: of `write_rlds`.

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
    stated = _settings(name, version, val_fraction, data)
    recorded = dataset_metadata(path).get("identity", {})
    if "labelled_from" not in dataset_metadata(path) and {key: recorded.get(key) for key in stated} == stated:
        return path
    require_free(path, stated, overwrite, source)
    print(source.account(), flush=True)
    train = plan_splits(len(source), val_fraction)["train"]
    labels: Labels | None = None
    made: Annotation | Annotator | None = fitted
    few = 1 if workers == 1 else None  # otherwise the annotator decides: processes cost more than a small dataset
    how: dict[str, Any] = {"method": method, "seed": seed, "workers": few, **(options or {})}
    if fitted is None and method != "none" and fit_episodes is not None:
        chosen = np.unique(np.linspace(0, len(train) - 1, min(fit_episodes, len(train))).round().astype(int))
        found = phases.annotate([source.read(train[i], images=False) for i in chosen], **how)
        print(f"fitted on {len(chosen)} of {len(source)} episodes:", *describe(found.report), sep="\n", flush=True)
        made = fitted = found.annotator
    if fitted is not None:
        source = AnnotatedSource(source, fitted)
    elif method != "none":
        every = (source.read(i, images=False) for i in range(len(source)))
        made = annotation = phases.annotate(every, fit=train, **how)
        print(*describe(annotation.report), sep="\n", flush=True)
        labels = [annotation.labels(i) for i in range(len(source))]
    return write_rlds(
        source,
        data_dir,
        name,
        version=version,
        val_fraction=val_fraction,
        annotator=None if made is None else made.identity,
        identity=data,
        labels=labels,
        workers=workers,
        overwrite=overwrite,
        companion=None if made is None else lambda folder: made.save(folder / "annotator"),
        **write_options,
    )


def write_rlds(
    episodes: Iterable[Episode],
    data_dir: str | Path,
    name: str,
    *,
    version: str = "1.0.0",
    val_fraction: float = 0.1,
    annotator: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
    workers: int = 1,
    overwrite: bool = False,
    runner: Runner | None = None,
    companion: Callable[[Path], Any] | None = None,
    module: str = MODULE,
    description: str = DESCRIPTION,
) -> Path:
    """Writes episodes as the RLDS dataset `data_dir/name/version`, readable by plain TFDS.

    Args:
        episodes: `gap_vla.demos.open_source(...)`, whose episodes are read one at a time, or any that are in memory.
            All have the same cameras, sizes and widths.
        data_dir: TFDS data directory.
        name, version: of the dataset, as TFDS wants them (small letters, digits, underscores; `major.minor.patch`).
        val_fraction: share of episodes in the split `val`, chosen evenly over the sequence.
        annotator: identity of what computed ρ (`Annotation.identity`); kept in `metadata.json`.
        identity: what the data are made from. Default: `source.identity()`, or a hash of the episodes in memory.
        labels: `rho` and `change_point` per episode (`Annotation.labels`), for sources that do not carry them.
        workers: processes that write shards (only for sources on disk; a list is written in this process).
        overwrite: replace an existing different dataset.
        runner: runs the shard jobs elsewhere (see `BeamRunner`).
        companion: called with the unfinished version directory, to put the annotator into it.
        module, description: of the builder class that writes the dataset, for its `dataset_info.json`.

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
    settings = {**_settings(name, version, val_fraction, identity), "annotator": plain(dict(annotator or {}))}
    if dataset_metadata(path).get("identity") == settings:
        return path
    require_free(path, settings, overwrite, episodes)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(f".{path.name}.lock"), str(path)):
        if partial.exists() and read_json(partial / "settings.json") != settings:
            remove(partial)
        partial.mkdir(exist_ok=True)
        write_json(partial / "settings.json", settings)
        splits, schema, first = _write_shards(episodes, labels, partial, settings, workers, runner)
        described = {"proprio": first.columns, "action": first.action_columns}
        _describe(partial, settings, schema, splits, module=module, description=description)
        metadata = {"identity": settings, "identity_hash": digest(settings, 16), "annotator": settings["annotator"]}
        columns = {key: str(one) for key, one in described.items() if one}
        write_json(partial / "metadata.json", {**metadata, "columns": columns})
        train = [_account(job) for job in splits["train"]]
        actions, proprios = (
            [part for one in train for part in np.split(one[key], np.cumsum(one["lengths"])[:-1])]
            for key in ("action", "proprio")
        )
        save_statistics(dataset_statistics(actions, proprios, first.action_columns), partial / STATISTICS)
        if companion is not None:
            companion(partial)
        for leftover in [job.account for jobs in splits.values() for job in jobs] + [partial / "settings.json"]:
            leftover.unlink()
        mark(partial, "dataset")
        put(partial, path)
    return path


def _settings(name: str, version: str, val_fraction: float, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataset is made from, as JSON holds it."""
    stated = {"name": name, "version": version, "val_fraction": val_fraction, "schema_version": SCHEMA_VERSION}
    return json.loads(json.dumps({**stated, "data": plain(data)}))  # type: ignore[no-any-return]


def require_free(path: Path, settings: Mapping[str, Any], overwrite: bool, source: Any) -> None:
    """Raises UserError, before any work: a dataset that was made differently is there, or `path` is in its source."""
    metadata = dataset_metadata(path)
    if (path / "metadata.json").exists() and not overwrite:
        recorded = {key: value for key, value in metadata.get("identity", {}).items() if key in settings}
        changed = in_words(differences(recorded, settings)) or "it is an annotated copy"
        raise UserError(f"{path} exists and was made differently ({changed}); choose another name, or overwrite it")
    claim(path, overwrite=overwrite, kind="dataset", sources=[source.path] if isinstance(source, Source) else [])


def _write_shards(
    episodes: Sequence[Episode],
    labels: Labels | None,
    partial: Path,
    settings: Mapping[str, Any],
    workers: int,
    runner: Runner | None,
) -> tuple[dict[str, list[ShardJob]], Schema, Episode]:
    """Writes the shards; returns the jobs of each split, the layout, and the first episode."""
    if len(episodes) == 0:
        raise EpisodeError("no episodes to write")
    if labels is not None and len(labels) != len(episodes):
        raise ConfigError(f"{len(labels)} labels for {len(episodes)} episodes")
    first = episodes[0].validate()
    first = first.replace(**labels[0]) if labels is not None else first
    schema = Schema.of(first)
    size = sum(image.nbytes for image in first.images.values()) + first.proprio.nbytes
    splits: dict[str, list[ShardJob]] = {}
    for split, indices in plan_splits(len(episodes), settings["val_fraction"]).items():
        shards = plan_shards(indices, size)
        splits[split] = []
        for i, shard in enumerate(shards):
            path = partial / f"{settings['name']}-{split}.tfrecord-{i:05d}-of-{len(shards):05d}"
            own = tuple(labels[j] for j in shard) if labels is not None else None
            job = ShardJob(episodes, shard, own, schema, path)
            if not isinstance(episodes, Source):  # a job is sent with its own episodes alone
                job = ShardJob([episodes[j] for j in shard], tuple(range(len(shard))), own, schema, path)
            splits[split].append(job)
    jobs = [job for of_split in splits.values() for job in of_split]
    progress = f"write {settings['name']}", len(jobs), "shard"
    if runner is not None:
        runner(jobs)
    elif workers > 1 and isinstance(episodes, Source) and size * len(episodes) > _WORTH_PROCESSES:
        with worker_pool(workers) as pool:
            watched(pool.map(write_shard, jobs), *progress)
    else:
        watched(map(write_shard, jobs), *progress)
    return splits, schema, first


def _account(job: ShardJob) -> Mapping[str, np.ndarray]:
    return np.load(job.account)  # type: ignore[no-any-return]


def _describe(
    partial: Path,
    settings: Mapping[str, Any],
    schema: Schema,
    splits: Mapping[str, Sequence[ShardJob]],
    *,
    module: str,
    description: str,
) -> None:
    """Writes TFDS' `dataset_info.json` and `features.json`."""
    import tensorflow_datasets as tfds

    described = []
    for split, jobs in splits.items():
        accounts = [_account(job) for job in jobs]
        lengths, size = [len(one["lengths"]) for one in accounts], sum(int(one["bytes"]) for one in accounts)
        described.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size))
    version = tfds.core.Version(settings["version"])
    builder = tfds.core.dataset_info.DatasetIdentity(settings["name"], version, str(partial), module_name=module)
    info = tfds.core.DatasetInfo(builder=builder, description=description, features=schema.features())
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.splits.SplitDict(described))
    info.write_to_directory(str(partial))


class AnnotatedSource(Source):
    """`source` with ρ: nothing is kept in memory, so a shard's worker labels only what it writes."""

    def __init__(self, source: Source, annotator: Annotator) -> None:
        self.kind, self.path, self.fields = source.kind, source.path, source.fields
        self._source, self._annotator = source, annotator

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int, *, images: bool = True) -> Episode:
        return with_rho(self._source.read(index, images=images), self._annotator)


def dry_run(
    source: Source,
    picture: Path,
    *,
    method: str = "lstm",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    val_fraction: float = 0.1,
    workers: int = 2,
) -> str:
    """What a conversion would write, as lines of text, and the first episode with ρ as the PNG file `picture`.

    Args:
        source: `gap_vla.demos.open_source(...)`.
        method, seed, options, val_fraction, workers: as in `build_dataset`.
    """
    from gap_vla import phases
    from gap_vla.drawing.episode import EpisodeView, write_picture
    from gap_vla.phases.measures import describe

    first, episodes = source.read(0), source.without_images()
    told: list[str] = []
    if method != "none":
        train = plan_splits(len(source), val_fraction)["train"]
        few = 1 if workers == 1 else None
        annotation = phases.annotate(episodes, method=method, seed=seed, workers=few, fit=train, **(options or {}))
        first, told = first.replace(**annotation.labels(0)), describe(annotation.report)
    lengths = [len(e) for e in episodes]
    lines = [source.account(), f"{len(lengths)} episodes, {min(lengths)} to {max(lengths)} steps, become"]
    for key, value in first.arrays.items():
        place = "observation/" if key in first.images or key == "proprio" else ""
        shape = "x".join(map(str, value.shape[1:])) or "scalar"
        lines.append(f"  steps/{place}{key}: {'string' if value.dtype.kind == 'U' else value.dtype.name} {shape}")
    lines.append(f"  steps/language_instruction: {first.language_instruction!r}")
    view = EpisodeView.of(first, title=f"{first.name}, {len(first)} steps: {first.language_instruction}")
    return "\n".join([*lines, *told, f"picture: {write_picture(view, picture)}"])
