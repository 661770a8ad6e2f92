"""ρ for data of others: any source goes in, a copy with ρ and change points comes out; and pages of single episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError, UserError
from gap_vla.core.files import claim, replacing
from gap_vla.demos.arrays import resized
from gap_vla.demos.source import Source

if TYPE_CHECKING:
    from gap_vla.phases import Annotation, Annotator

LARGEST = 160
"""Pixels of the longer side of the report's frames: a page of a few episodes stays a few megabytes."""


def with_rho(episode: Episode, annotator: Annotator) -> Episode:
    """The episode with the ρ and change points of a fitted annotator (`gap_vla.phases.load_annotator(...)`).

    In a Beam pipeline of your own: `Map(with_rho, annotator)`.
    """
    return annotator.annotate([episode], workers=1).apply([episode])[0]


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What `annotate_source` wrote: the copy, the folder of its annotator, the labels, and the source."""

    path: Path
    annotator: Path
    annotation: Annotation
    source: Source


def annotate_source(
    source: Source,
    out: str | Path | None = None,
    *,
    method: str = "lstm",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    annotator: str | Path | None = None,
    extra: str = "",
    workers: int | None = None,
    overwrite: bool = False,
) -> Annotated:
    """Writes a copy of `source` with ρ and change points; everything else stays as it is. Of a LeRobot folder also a
    file of them alone.

    Of a dataset with a split `train` the annotator is fitted on that split, else on all episodes. It is saved beside
    the copy: in `OUT/annotator` of a folder, in `OUT.annotator` of a file.

    Args:
        source: `gap_vla.demos.open_source(...)`.
        out: where the copy goes; for RLDS the new version's folder, such as `data/threading/1.1.0`. For LeRobot a
            file `*.parquet` takes ρ alone; default: `gap_rho.parquet` in its folder, from which our reader has it.
        method, seed, options: of `gap_vla.phases.annotate`.
        annotator: folder of a saved annotator: annotate with it, fit nothing.
        extra: further joints or hand channels whose motion counts too, arrays of the source joined by `+`. Default:
            those that the saved annotator was fitted with.
        workers: processes; None decides by the amount of work.
        overwrite: replace an earlier copy once the new one is complete.
    """
    from gap_vla.phases.measures import require_marks

    sources = [source.path, *([annotator] if annotator else [])]
    if not (out := out or source.sidecar):
        raise UserError(f"{source.path}: name the annotated copy with --out")
    kind, is_beside = source.output_at(Path(out)), Path(out) == source.sidecar
    out = claim(out, overwrite=overwrite, kind=kind, sources=[] if is_beside else sources)
    saved = out / "annotator" if kind else out.with_name(f"{out.name}.annotator")
    annotation = annotation_of(
        source, method=method, seed=seed, options=options, annotator=annotator, extra=extra, workers=workers
    )
    require_marks(annotation.report)
    source.write_labels(out, [annotation.labels(i) for i in range(len(source))], annotation.identity)
    with replacing(saved) as new:
        annotation.annotator.save(new)
    return Annotated(out, saved, annotation, source)


def annotation_of(
    source: Source,
    *,
    method: str = "lstm",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    annotator: str | Path | None = None,
    extra: str = "",
    workers: int | None = None,
    fit: Sequence[int] | None = None,
) -> Annotation:
    """The labels of all episodes of a source; see `annotate_source`.

    Args:
        fit: episodes on which the annotator is fitted. Default: the split `train`; without one, all.
    """
    from gap_vla import phases

    fitted = phases.load_annotator(annotator) if annotator else None
    extra = extra or "+".join(fitted.extra if fitted else ())
    episodes = (source.read(i, images=False, labels=False) for i in range(len(source)))
    columns = [source.rows(i, extra) for i in range(len(source))] if extra else None
    if fitted:
        return fitted.annotate(episodes, workers=workers, extra=columns)
    if fit is None:
        fit = [i for i, split in enumerate(getattr(source, "splits", ())) if split == "train"] or None
    how: dict[str, Any] = {"method": method, "seed": seed, "workers": workers, **(options or {})}
    annotation = phases.annotate(episodes, extra=columns, fit=fit, **how)
    named = dataclasses.replace(annotation.annotator, extra=tuple(filter(None, extra.split("+"))))
    return dataclasses.replace(annotation, annotator=named)


def write_report(done: Annotated, path: Path, episodes: int = 3) -> Path:
    """Writes the HTML report of what `annotate_source` did, with some episodes, spread over the data, and frames."""
    from gap_vla.phases.pages import report_page, view_of

    views = []
    for i in spread(len(done.source), episodes):
        episode = done.source.read(i, labels=False)
        views.append(view_of(episode.replace(**done.annotation.labels(i), images=_small(episode))))
    text = report_page(f"Labels of {done.path}", done.annotation.report, done.annotation.identity, views)
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")
    return path


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers below `count`, evenly from the first to the last."""
    return sorted({round(float(i)) for i in np.linspace(0, count - 1, min(wanted, count))})


def _small(episode: Episode) -> dict[str, np.ndarray]:
    small = {}
    for name, frames in episode.images.items():
        scale = max(max(frames.shape[1:3]) / LARGEST, 1)
        height, width = (max(round(side / scale), 1) for side in frames.shape[1:3])
        small[name] = resized(frames, (height, width))
    return small


def show_episode(
    source: Source,
    out: str | Path,
    *,
    episode: int = 0,
    camera: str | None = None,
    method: str | None = None,
    annotator: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes one episode as a page (.html) or a picture (.png).

    It shows the ρ that is stored in the file. Where none is stored, or a method or the folder of an annotator is given,
    it shows the ρ that `annotate_source` would write: the annotator is fitted on the whole source. The method "none"
    shows no other ρ than a stored one.
    """
    from gap_vla.drawing.episode import episodes_page, write_picture
    from gap_vla.phases.measures import notes, told_weak
    from gap_vla.phases.pages import view_of

    out = Path(out)
    if out.suffix not in (".html", ".png"):
        raise UserError(f"{out}: name a page (.html) or a picture (.png)")
    claim(out, overwrite=True, sources=[source.path])
    if not 0 <= episode < len(source):
        raise EpisodeError(f"{source.path}: no episode {episode}; it has {len(source)}, from 0 to {len(source) - 1}")
    chosen = source.read(episode, labels=method in (None, "none") and not annotator)
    if chosen.rho is not None and chosen.change_point is not None:
        facts = ["ρ as it is stored", told_weak([chosen.rho], [np.flatnonzero(chosen.change_point)])]
    elif method == "none":
        facts = ["no ρ"]
    elif method or annotator or chosen.has_pose or chosen.moves_by_joints:
        how = {"check": False, **(options or {})}
        annotation = annotation_of(source, method=method or "lstm", annotator=annotator, options=how)
        chosen = chosen.replace(**annotation.labels(episode))
        identity = annotation.identity
        facts = [f"ρ by {identity['method']}, annotator {identity['hash']}", *notes(annotation.report)]
    else:
        facts = ["no ρ: the state holds no position of the hand and no joints, or nobody described it (--columns)"]
    facts = list(filter(None, facts))
    print(*facts, sep="\n", flush=True)
    view = view_of(chosen, camera=camera, facts=tuple(facts))
    if out.suffix == ".png":
        return write_picture(view, out)
    with replacing(out) as new:
        new.write_text(episodes_page(view.title, [view]), encoding="utf-8")
    return out
