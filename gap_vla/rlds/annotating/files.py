"""Files that get ρ, and pages about them: an RLDS dataset, a robomimic HDF5 or a folder of npz goes in, the same with
labels comes out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import finite, regular
from gap_vla.core.marks import HDF5, suffix_of
from gap_vla.core.outputs import claim, write_output
from gap_vla.demos.content import Unchanged, unchanging
from gap_vla.demos.fields import files_in, resized
from gap_vla.phases import load_annotator
from gap_vla.phases.measures import beyond_reach
from gap_vla.phases.motion import farthest, motion_of
from gap_vla.rlds.annotating import hdf5_files, npz_files, rlds_files
from gap_vla.rlds.annotating.changed import tell_changed
from gap_vla.rlds.annotating.job import AnnotatedFiles, AnnotationError, AnnotationJob
from gap_vla.rlds.checking.dataset_checks import tell_duplicates
from gap_vla.rlds.version_files import naming_a_full_disk

KINDS = {"rlds": rlds_files, "robomimic_hdf5": hdf5_files, "npz": npz_files}
"""Kind of source: the module that knows it."""

OUTPUTS = {"rlds": "dataset", "robomimic_hdf5": "labelled_demos", "npz": "labelled_npz"}
"""Kind of source: the kind of output (`gap_vla.core.outputs`) that its annotated copy is."""

FILES = (*HDF5, ".npz", ".html", ".mp4", ".png", ".json")
"""Suffixes that no folder of episodes has."""


def kind_of(source: str | Path) -> str:
    """Which of `KINDS` a path is. Raises AnnotationError: none of them; says what each looks like."""
    source = Path(source)
    if not source.exists():
        raise AnnotationError(f"{source}: no such file or folder")
    if not source.is_dir():
        regular(source, AnnotationError)
    if (source / "features.json").is_file():
        return "rlds"
    if source.is_file() and suffix_of(source) in HDF5:
        return "robomimic_hdf5"
    if files_in(source, ".npz"):
        return "npz"
    raise AnnotationError(
        f"{source}: neither an RLDS dataset version (a folder with features.json, such as data/threading/1.0.0), nor "
        "a robomimic .hdf5, nor a folder of .npz; others become RLDS with `gap-vla build-dataset --kind`"
    )


def annotate_files(
    source: str | Path, out: str | Path, job: AnnotationJob | None = None, **job_fields: Any
) -> AnnotatedFiles:
    """Writes a copy of `source` with ρ and change points; everything else stays as it is, byte for byte.

    The copy takes its place after it was read back: as many episodes as the source says, with these labels.

    Args:
        source: RLDS dataset version directory, robomimic/MimicGen HDF5, or folder of npz.
        out: where the copy goes; for RLDS the new version's directory. It must not exist unless `job.overwrite`.
        job: how to label; keywords are fields of it, and hold in its place.

    Returns:
        What was written, with the annotation.

    Raises:
        AnnotationError: unknown kind, a field that has no effect, or the copy cannot be read back. DatasetError: the
            disk is full.
        OutputError: `out` must not be written: it is, holds or lies in what is read, or something else stands there.
        EpisodeError: an episode that cannot be annotated; `out` does not appear, nothing else changes.
    """
    source, out = Path(source), Path(out)
    job = dataclasses.replace(job, **job_fields) if job else AnnotationJob(**job_fields)
    kind = kind_of(source)
    _ = job.columns  # a typo is one for every kind of source
    if kind != "rlds":
        _refuse_idle(f"{source}", "of RLDS", state=job.state != AnnotationJob.state)
    suffixes = HDF5 if kind == "robomimic_hdf5" else ()
    if not suffixes and (suffix_of(out) in FILES or not out.name):
        raise AnnotationError(f"{out}: the annotated copy of {source} is a folder of its own; give another name")
    claim(out, OUTPUTS[kind], overwrite=job.overwrite, sources=[source, job.annotator], suffixes=suffixes)
    with naming_a_full_disk(out.parent, f"{out} is as it was"):
        unchanged = Unchanged(source, coming="*.npz" if kind == "npz" else "")  # a dataset says which files it has
        try:
            done = KINDS[kind].annotate(source, out, job, unchanged)
        except UserError:
            unchanged()  # if it changed, that is the reason
            raise
    names = (str(e.metadata["episode_id"]) if kind == "rlds" else f"episode[{i}]" for i, e in enumerate(done.episodes))
    tell_duplicates((name, e.action, e.proprio) for name, e in zip(names, done.episodes))
    return done


def _refuse_idle(where: str, only: str, **given: bool) -> None:
    """Raises AnnotationError for the first argument that was given, and has an effect `only` elsewhere."""
    for name in (name for name, said in given.items() if said):
        raise AnnotationError(f"{where}: {name} has no effect, only {only}; leave it out")


LARGEST = 160
"""Pixels of the longer side of the report's frames: a page of a few episodes stays a few megabytes."""

_COMPARED = 2 << 30
"""Bytes of a folder that is compared with its checksums for one episode, which takes about two seconds."""


def write_report(done: AnnotatedFiles, path: Path, episodes: int = 3) -> Path:
    """Writes the HTML report of what `annotate_files` did, with some episodes, spread over the data, and frames.

    Raises:
        AnnotationError: another command has replaced the copy meanwhile.
    """
    from gap_vla.phases.pages import report_page, view_of

    labelled = done.annotation.apply(done.episodes)
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(episodes, len(labelled))).round().astype(int)).tolist()
    views = []
    for i in chosen:
        images = dict(done.read(i).images)
        for name, frames in images.items():
            scale = max(max(frames.shape[1:3]) / LARGEST, 1)
            height, width = (max(round(side / scale), 1) for side in frames.shape[1:3])
            images[name] = resized(frames, (height, width))
        views.append(view_of(labelled[i].replace(images=images)))
    if load_annotator(done.annotator).identity["hash"] != done.annotation.identity["hash"]:
        raise AnnotationError(f"{done.path} was replaced meanwhile, by labels of another command; no page is written")
    text = report_page(f"Labels of {done.path}", done.annotation.report, done.annotation.identity, views)
    return write_output(path, "report", text)


def show_episode(
    source: str | Path,
    out: str | Path,
    *,
    episode: int = 0,
    split: str = "train",
    camera: str | None = None,
    fps: float = 20,
    method: str | None = None,
    annotator: Path | None = None,
    layout: str | Mapping[str, Any] | None = None,
    state: str = "observation/proprio",
) -> Path:
    """Writes one episode as a page (.html), a video (.mp4) or a picture (.png).

    With a method, or the folder of an annotator, it is annotated; otherwise its stored labels are shown, if it has any.
    `split` and `state` are of RLDS, `fps` of a video; `layout` and `state` are those of `AnnotationJob`. Raises as
    `annotate_files`, also for an unknown episode, for a method beside an annotator, or for one with extra columns.
    """
    from gap_vla.drawing.episode import episodes_page, write_episode_video, write_picture
    from gap_vla.phases.pages import view_of

    source, out = Path(source), Path(out)
    if method is not None and annotator is not None:
        raise AnnotationError("method: no effect with an annotator, which knows its own; leave one out")
    claim(out, "episode", sources=[source, annotator], suffixes=(".html", ".mp4", ".png"))
    if annotator is not None and (extra := "+".join(load_annotator(annotator).extra)):
        raise AnnotationError(
            f"{annotator} was fitted with extra {extra}, which is not read here: annotate {source} with this annotator "
            f"and extra {extra}, and show the copy"
        )
    job = AnnotationJob(method or "lstm", annotator=annotator, layout=layout, state=state)
    kind = kind_of(source)
    if kind != "rlds":
        _refuse_idle(f"{source}", "of RLDS", split=split != "train", state=state != AnnotationJob.state)
    finite("fps", fps, 0.1, 1000, AnnotationError)
    if suffix_of(out) != ".mp4":
        _refuse_idle(f"{out}", "of a video, .mp4", fps=fps != 20)
    anew = method is not None or annotator is not None
    with contextlib.nullcontext() if kind == "npz" else unchanging(source):  # of npz one file is read, at once
        chosen = KINDS[kind].read(source, episode, job, split, stored=not anew)
        if source.is_dir() and sum(one.stat().st_size for one in source.iterdir() if one.is_file()) <= _COMPARED:
            tell_changed(source)
    facts: tuple[str, ...] = ()
    if anew:
        labels = job.run([chosen])
        if asked := beyond_reach(labels.report.get("reach", 0)):
            print(f"note: {asked}", flush=True)
        chosen = labels.apply([chosen])[0]
        facts = (f"labels: {labels.identity['method']}, {labels.identity['hash']}",)
    elif asked := beyond_reach(farthest(motion_of(chosen))):
        print(f"note: {asked}", flush=True)
    view = view_of(chosen, camera=camera, facts=facts)
    if suffix_of(out) == ".mp4":
        return write_episode_video(view, out, fps=fps)
    if suffix_of(out) == ".png":
        return write_picture(view, out)
    return write_output(out, "episode", episodes_page(view.title, [view]))
