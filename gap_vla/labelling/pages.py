"""Pages about labelled files: a report of the whole, or one episode read back with its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gap_vla.atomic import replacing
from gap_vla.demos import open_source
from gap_vla.episode import Episode
from gap_vla.labelling.job import LabelledFiles, LabellingError


def write_report(done: LabelledFiles, path: Path, episodes: int = 3) -> Path:
    """Writes the HTML report of what `label_files` did, with some episodes spread over the data (without images)."""
    from gap_vla.phases.view import report_page, view_of

    labelled = done.annotation.apply(done.episodes)
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(episodes, len(labelled))).round().astype(int))
    views = [view_of(labelled[i]) for i in chosen]
    text = report_page(f"Labels of {done.path}", done.annotation.report, done.annotation.identity, views)
    with replacing(path) as temporary:
        temporary.write_text(text)
    return path


def read_episode(source: Path, index: int, *, split: str = "train") -> Episode:
    """Episode `index` of labelled or unlabelled files, with its images and, where there are, its labels.

    Raises:
        LabellingError: no such episode or split, or unknown files.
    """
    from gap_vla.labelling import kind_of

    kind = kind_of(source)
    if kind == "rlds":
        return _from_rlds(source, index, split)
    if kind == "robomimic_hdf5":
        return _from_hdf5(source, index)
    return _from_npz(source, index)


def _from_rlds(source: Path, index: int, split: str) -> Episode:
    from gap_vla.rlds.reader import read_rlds

    for number, episode in enumerate(read_rlds(source, split)):
        if number == index:
            return episode
    raise LabellingError(f"{source}, split {split}: no episode {index}")


def _from_hdf5(source: Path, index: int) -> Episode:
    import h5py

    demos = open_source(source)
    if not 0 <= index < len(demos):
        raise LabellingError(f"{source}: no episode {index}; it has {len(demos)}")
    episode = demos[index]
    with h5py.File(source) as file:
        group = file[f"data/{episode.metadata['episode_id']}"]
        if "rho" in group:
            return episode.replace(rho=group["rho"][()], change_point=group["change_point"][()])
    return episode


def _from_npz(source: Path, index: int) -> Episode:
    from gap_vla.labelling.job import LabelJob
    from gap_vla.labelling.npz_files import read_npz

    files = sorted(source.glob("*.npz"))
    if not 0 <= index < len(files):
        raise LabellingError(f"{source}: no episode {index}; it has {len(files)}")
    return read_npz(files[index], LabelJob())


def show_episode(
    source: Path,
    out: Path,
    *,
    episode: int = 0,
    split: str = "train",
    camera: str | None = None,
    fps: float = 20,
    method: str | None = None,
    annotator: Path | None = None,
) -> Path:
    """Writes one episode as a page (.html), a video (.mp4) or a picture (.png).

    Args:
        method, annotator: label the episode with them; otherwise its stored labels are shown, if it has any.

    Raises:
        LabellingError: unknown files, episode, or kind of output.
    """
    from gap_vla.phases import annotate, load_annotator
    from gap_vla.phases.view import episode_page, view_of, write_picture, write_video

    if out.suffix not in (".html", ".mp4", ".png"):
        raise LabellingError(f"{out}: the name must end in .html, .mp4 or .png")
    chosen = read_episode(source, episode, split=split)
    facts: tuple[str, ...] = ()
    if method is not None or annotator is not None:
        label = load_annotator(annotator).label([chosen]) if annotator else annotate([chosen], method=method or "lstm")
        chosen = label.apply([chosen])[0]
        facts = (f"labels: {label.identity['method']}, {label.identity['hash']}",)
    view = view_of(chosen, camera=camera, facts=facts)
    if out.suffix == ".mp4":
        return write_video(view, out, fps=fps)
    if out.suffix == ".png":
        return write_picture(view, out)
    with replacing(out) as temporary:
        temporary.write_text(episode_page(view))
    return out
