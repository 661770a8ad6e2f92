"""Looking at collected demonstrations: a sheet of pictures along each episode, and a video."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from gap_vla.core.marks import HDF5, suffix_of
from gap_vla.core.outputs import OutputError, claim, writing
from gap_vla.demos.hdf5_members import opened
from gap_vla.drawing.episode import film_strip
from gap_vla.drawing.video import write_video

LARGE = 256
"""Pixels of a picture in a sheet, at most: of many larger ones it is more than PIL reads. Small ones are enlarged."""


def claim_pictures(path: Path) -> None:
    """Makes sure, before demonstrations are collected, that they, the sheet and the video beside them may be written.

    Raises:
        OutputError: something else stands there, or pictures of a file that is called the same but for its suffix.
    """
    claim(path, "demos", overwrite=None, suffixes=HDF5)
    for other in path.parent.glob(f"{glob.escape(path.stem)}.*"):
        if other.stem == path.stem and suffix_of(other) in HDF5 and other.name != path.name:
            shared = f"{path.stem}.png and {path.stem}.mp4"
            raise OutputError(f"{other} is there, and {shared} would be of both; choose another name, or --show 0")
    claim(path.with_suffix(".png"), "demos_sheet", suffixes=(".png",), named=False)
    claim(path.with_suffix(".mp4"), "demos_video", suffixes=(".mp4",), named=False)


def contact_sheet(path: Path, beside: Path, episodes: int) -> Path:
    """Writes `<beside without suffix>.png`: for the first episodes of a collection, a row of pictures per camera.

    Args:
        path: the collection; beside: where it will be.
    """
    from PIL import Image

    with opened(path) as file:
        films = [film for cameras in _films(file, episodes) for film in cameras]
        size = films[0].shape[1]
        thin, factor = -(-size // LARGE), 2 if 2 * size <= LARGE else 1
        rows = [film_strip(film, 8)[::thin, ::thin] for film in films]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    out = beside.with_suffix(".png")
    with writing(out, "demos_sheet") as temporary:
        sheet.resize((factor * sheet.width, factor * sheet.height), Image.Resampling.NEAREST).save(temporary)
    return out


def video(path: Path, beside: Path, episodes: int) -> Path:
    """Writes `<beside without suffix>.mp4`: the first episodes one after the other, in real time, cameras side by side.

    Args:
        path: the collection; beside: where it will be.
    """
    with opened(path) as file:
        rate, films = int(file["data"].attrs["control_hz"]), _films(file, episodes)
        frames = (np.concatenate(cameras, axis=1) for one in films for cameras in zip(*map(_pictures, one)))
        scale = max(1, LARGE // films[0][0].shape[1])
        return write_video(beside.with_suffix(".mp4"), frames, "demos_video", fps=rate, scale=scale)


def _films(file: h5py.File, episodes: int) -> list[list[h5py.Dataset]]:
    """uint8[T, h, w, 3] of each camera, of the first episodes; still on the disk, where large ones are GB."""
    demos = [file[f"data/demo_{i}/obs"] for i in range(min(episodes, len(file["data"])))]
    return [[obs[camera] for camera in sorted(obs) if camera.startswith("image_")] for obs in demos]


def _pictures(film: h5py.Dataset) -> Iterator[np.ndarray]:
    """One after the other; they are read as they were compressed."""
    for first in range(0, len(film), film.chunks[0]):
        yield from film[first : first + film.chunks[0]]
