"""Pages about labelled files: a report of the whole, or one episode read back with its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.outputs import claim, write_output
from gap_vla.labelling.job import LabelJob, LabelledFiles

LARGEST = 160
"""Pixels of the longer side of the report's frames: a page of a few episodes stays a few megabytes."""


def write_report(done: LabelledFiles, path: Path, episodes: int = 3) -> Path:
    """Writes the HTML report of what `label_files` did, with some episodes, spread over the data, and their frames."""
    from gap_vla.phases.view import report_page, view_of

    labelled = done.annotation.apply(done.episodes)
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(episodes, len(labelled))).round().astype(int)).tolist()
    views = []
    for i in chosen:
        images = {name: shrunk(frames) for name, frames in done.read(i).images.items()}
        views.append(view_of(labelled[i].replace(images=images)))
    text = report_page(f"Labels of {done.path}", done.annotation.report, done.annotation.identity, views)
    return write_output(path, "report", text)


def shrunk(frames: np.ndarray) -> np.ndarray:
    """uint8[T, h, w, 3] with no side above `LARGEST` pixels."""
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return frames
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames])


def read_episode(source: Path, index: int, *, split: str = "train", job: LabelJob | None = None) -> Episode:
    """Episode `index` of labelled or unlabelled files, with its images and, where there are, its labels.

    Args:
        job: says how states of others are laid out; nothing is labelled.

    Raises:
        LabellingError: no such episode or split, or unknown files.
    """
    from gap_vla.labelling import hdf5_files, kind_of, npz_files, tfds_files

    job = job or LabelJob()
    kind = kind_of(source)
    if kind == "rlds":
        return tfds_files.read(source, index, split, job)
    if kind == "robomimic_hdf5":
        return hdf5_files.read(source, index)
    return npz_files.read(source, index, job)


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
    layout: str | Mapping[str, Any] = "gap",
    state: str = "observation/proprio",
) -> Path:
    """Writes one episode as a page (.html), a video (.mp4) or a picture (.png).

    Args:
        method, annotator: label the episode with them; otherwise its stored labels are shown, if it has any.
        layout, state: of states of others, see `LabelJob`.

    Raises:
        LabellingError: unknown files or episode.
        OutputError: `out` must not be written.
    """
    from gap_vla.phases import annotate, load_annotator
    from gap_vla.phases.view import episode_page, view_of, write_picture, write_video

    claim(out, "episode", sources=[source, annotator], suffixes=(".html", ".mp4", ".png"))
    chosen = read_episode(source, episode, split=split, job=LabelJob(layout=layout, state=state))
    facts: tuple[str, ...] = ()
    if method is not None or annotator is not None:
        if annotator is not None:
            labels = load_annotator(annotator).annotate([chosen])
        else:
            labels = annotate([chosen], method=method or "lstm")
        chosen = labels.apply([chosen])[0]
        facts = (f"labels: {labels.identity['method']}, {labels.identity['hash']}",)
    view = view_of(chosen, camera=camera, facts=facts)
    if out.suffix == ".mp4":
        return write_video(view, out, fps=fps)
    if out.suffix == ".png":
        return write_picture(view, out)
    return write_output(out, "episode", episode_page(view))
