"""Demonstrations to RLDS with ρ in one call: read, annotate, write, and keep the annotator beside the data."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla import phases
from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import whole
from gap_vla.core.identity import plain
from gap_vla.core.outputs import require_apart
from gap_vla.demos.fields import tell_others
from gap_vla.demos.source import Source, open_source
from gap_vla.phases.measures import describe
from gap_vla.rlds.account import dataset_metadata
from gap_vla.rlds.annotating.changed import tell_changed
from gap_vla.rlds.annotating.job import AnnotationJob, require_of_labels
from gap_vla.rlds.builder import write_rlds
from gap_vla.rlds.schema import SCHEMA_VERSION, Schema
from gap_vla.rlds.shards import plan_splits, with_rho
from gap_vla.rlds.target import (
    alone_at,
    as_recorded,
    forget_replaced,
    is_whole,
    refuse_other,
    require_free,
    same_settings,
)
from gap_vla.rlds.version_files import DatasetError

if TYPE_CHECKING:
    from gap_vla.phases import Annotation, Annotator


def build_dataset(
    source: Source | str | Path,
    data_dir: str | Path,
    name: str,
    *,
    kind: str = "robomimic_hdf5",
    method: str = "lstm",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    version: str = "1.0.0",
    val_fraction: float = 0.1,
    identity: Mapping[str, Any] | None = None,
    annotator: str | Path | None = None,
    fit_episodes: int | None = None,
    workers: int = 2,
    overwrite: bool = False,
    **write_options: Any,
) -> Path:
    """Annotates demonstrations with ρ and writes them as the RLDS dataset `data_dir/name/version`.

    Which episodes are validation is decided first (`plan_splits`); everything that is fitted, the annotator and the
    statistics for normalisation, sees the split `train` alone.

    Args:
        source: `gap_vla.demos.open_source(...)`, or a path of the given kind.
        data_dir, name, version, val_fraction, overwrite: of `write_rlds`.
        kind: reader name, if `source` is a path.
        method, seed, options: of `gap_vla.phases.annotate`; the method `"none"` writes a dataset without ρ.
        identity: what the data are made from; default: reader, options and a hash of the files' content.
        annotator: folder of a saved annotator: label with it, fit nothing (`method`, `seed`, `options` are its own, and
            others are refused).
        fit_episodes: fit the annotator on this many episodes of `train`, spread evenly, and label the rest where they
            are written; for data whose proprioception does not fit into memory. Default: on the whole split.
        workers: processes.
        **write_options: of `write_rlds`, but `episodes`, `labels` and `companion`.

    Returns:
        The version directory; it holds the annotator in `annotator/`. An existing dataset made from the same data with
        the same settings is returned without annotating again.

    Raises:
        DatasetError, EpisodeError: as `write_rlds`.
        AnnotationError: the annotator is not what made the labels that it lies beside.
    """
    inspect.signature(write_rlds).bind_partial(**write_options)  # TypeError: misspelt, also of a finished dataset
    if own := sorted({"episodes", "labels", "companion"} & {*write_options}):
        raise DatasetError(f"{own[0]} is made by build_dataset itself; leave it out, or call write_rlds with it")
    whole("workers", workers, 1, 1024, DatasetError)
    if not isinstance(source, Source):
        source = open_source(source, kind)
    if len(source) == 0:
        raise DatasetError(f"{source.path}: no episodes")
    require_apart(Path(data_dir) / name / version, source.path)  # the next call would find other data
    seed, val_fraction, options = (
        plain(value, name, DatasetError)
        for name, value in {"seed": seed, "val_fraction": val_fraction, "options": dict(options or {})}.items()
    )
    wanted: dict[str, Any] = {"method": method, "seed": seed, "options": options}
    fitted = phases.load_annotator(annotator) if annotator is not None else None
    job = _job(method, seed, options, workers) if fitted is None and method != "none" else None
    if fit_episodes is not None:
        whole("fit_episodes", fit_episodes, 1, 2**31, DatasetError)
    idle = {"fit_episodes": fit_episodes is not None, "seed": seed != 0, "options": bool(options)}
    idle["method"] = fitted is not None and method not in ("lstm", fitted.method)
    if job is None and any(idle.values()):
        name_of = next(name for name, given in idle.items() if given)
        raise DatasetError(f"{name_of} has no effect with {'an annotator' if fitted else 'method none'}; leave it out")
    if fit_episodes is not None and method in ("fixed", "column") and (options or {}).get("rho") != "lstm":
        raise DatasetError(f"fit_episodes has no effect with method {method}, which fits nothing; leave it out")
    if fitted is not None:
        wanted = {"annotator": plain(fitted.identity, "annotator", DatasetError)}
    elif fit_episodes is not None:
        wanted["fit_episodes"] = fit_episodes
    if job is not None or fitted is not None:
        wanted["labels_version"] = phases.LABELS_VERSION
    made_from = plain(source.identity() if identity is None else identity, "identity", DatasetError)
    data = {**made_from, "annotation": wanted}
    target = Path(data_dir) / name / version
    stated = {
        "name": name,
        "version": version,
        "val_fraction": val_fraction,
        "schema_version": SCHEMA_VERSION,
        "data": data,
    }
    metadata = dataset_metadata(target)
    recorded = metadata.get("identity", {}) if "labelled_from" not in metadata else {}  # a copy with other labels
    same = same_settings({key: recorded.get(key) for key in stated}, as_recorded(stated))
    if same and is_whole(target, overwrite):
        with contextlib.suppress(OSError, UserError), alone_at(target):  # where one may write, and nobody is at work
            forget_replaced(target)
        return target
    if annotator is not None:
        require_of_labels(Path(annotator))
    if target.exists() and not overwrite:
        refuse_other(target, stated)
    require_free(target, overwrite)
    source.look()
    print(source.account(), flush=True)
    _tell_beside(source)
    if job is not None:
        _tell_own_labels(source)
    train = plan_splits(len(source), val_fraction)["train"]
    if job is not None and fit_episodes is not None:
        chosen = np.unique(np.linspace(0, len(train) - 1, min(fit_episodes or 1, len(train))).round().astype(int))
        found = job.run([source.read(train[i], images=False) for i in chosen])
        print(f"fitted on {len(chosen)} of {len(source)} episodes:", *describe(found.report), sep="\n", flush=True)
        fitted = found.annotator
    made: Annotation | Annotator | None = fitted
    labels = None
    if fitted is not None:
        source = AnnotatedSource(source, fitted)
    elif job is not None:
        episodes = source.without_images()
        Schema.of(episodes[0]).check(*episodes)
        made = annotation = job.run(episodes, fit=train)
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
    """What a conversion would write: the mapping, what is dropped, and the first episode with ρ as a picture.

    Args:
        source: `gap_vla.demos.open_source(...)`.
        picture: PNG file to write.
        method, seed, options, val_fraction, workers: as in `build_dataset`.

    Returns:
        The account, as lines of text.
    """
    from gap_vla.drawing.episode import EpisodeView, write_picture

    source.look()
    _tell_beside(source)
    first, episodes = source.read(0), source.without_images()
    Schema.of(episodes[0]).check(*episodes)
    told: list[str] = []
    if method != "none":
        train = plan_splits(len(source), val_fraction)["train"]
        annotation = _job(method, seed, options, workers).run(episodes, fit=train)
        first, told = first.replace(**annotation.labels(0)), describe(annotation.report)
    lengths = [len(e) for e in episodes]
    mapping = source.mapping()
    lines = [f"{source.path} ({source.kind}): {len(lengths)} episodes, {min(lengths)} to {max(lengths)} steps"]
    for key, value in first.replace(images=dict(sorted(first.images.items()))).arrays.items():
        place = "observation/" if key in first.images or key == "proprio" else ""
        shape = "x".join(str(n) for n in value.shape[1:]) or "scalar"
        kind = "string" if value.dtype.kind == "U" else value.dtype.name
        lines.append(f"  steps/{place}{key}: {kind} {shape}  <- {mapping.get(key, 'annotator')}")
    known = "language_instruction" in source.options
    missing = '  (none; give one with --reader language_instruction="…")' if known else "  (none)"
    missing = "" if first.language_instruction else missing
    lines.append(f"  steps/language_instruction: {first.language_instruction!r}{missing}")
    lines += [source.account(), *told]
    if method != "none":
        _tell_own_labels(source)
    view = EpisodeView.of(first, title=f"{first.name}, {len(first)} steps: {first.language_instruction}")
    return "\n".join([*lines, f"picture: {write_picture(view, picture)}"])


def _tell_beside(source: Source) -> None:
    """Says what lies beside the files that are read, and that an annotated one was changed since."""
    if source.files and source.path.is_dir():
        tell_others(source.path, source.files, "read")
    if source.kind in ("robomimic_hdf5", "npz"):
        tell_changed(source.path)


def _tell_own_labels(source: Source) -> None:
    if "rho" in source.dropped():
        advice = "if annotate made it, the annotator that lies beside it labels so again (build-dataset --annotator)"
        print(f"note: rho of {source.path} is not taken, but found anew; {advice}", flush=True)


def _job(method: str, seed: int, options: Mapping[str, Any] | None, workers: int) -> AnnotationJob:
    # more than one process is left to the annotator: starting them costs more than a small dataset
    return AnnotationJob(method, seed, options or {}, workers=1 if workers == 1 else None)


class AnnotatedSource(Source):
    """`source` with ρ: nothing is kept in memory, so a shard's worker labels only what it writes."""

    def __init__(self, source: Source, annotator: Annotator) -> None:
        self.kind, self.path, self.options = source.kind, source.path, source.options
        self._source, self._annotator, self.unchanged = source, annotator, source.unchanged

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int, *, images: bool = True) -> Episode:
        return with_rho(self._source.read(index, images=images), self._annotator)
