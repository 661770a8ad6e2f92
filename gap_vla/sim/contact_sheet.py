"""Looking at collected demonstrations: a sheet of pictures along each episode, and a video."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from gap_vla.drawing.episode import film_strip
from gap_vla.drawing.video import write_video

LARGE = 256
"""Pixels of a picture in a sheet, at most. Small ones are enlarged."""


def contact_sheet(demos: Path, out: Path, episodes: int) -> Path:
    """Writes a PNG with a row of pictures per camera for the first episodes of a collection; returns `out`."""
    from PIL import Image

    with h5py.File(demos) as file:
        films = [film for cameras in _films(file, episodes) for film in cameras]
        size = films[0].shape[1]
        thin, factor = -(-size // LARGE), 2 if 2 * size <= LARGE else 1
        rows = [film_strip(film, 8)[::thin, ::thin] for film in films]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    sheet.resize((factor * sheet.width, factor * sheet.height), Image.Resampling.NEAREST).save(out)
    return out


def video(demos: Path, out: Path, episodes: int) -> Path:
    """Writes the first episodes of a collection one after the other, in real time, cameras side by side."""
    with h5py.File(demos) as file:
        rate, films = int(file["data"].attrs["control_hz"]), _films(file, episodes)
        frames = (np.concatenate(cameras, axis=1) for one in films for cameras in zip(*(film[:] for film in one)))
        return write_video(out, frames, fps=rate, scale=max(1, LARGE // films[0][0].shape[1]))


def _films(file: h5py.File, episodes: int) -> list[list[h5py.Dataset]]:
    """uint8[T, h, w, 3] of each camera, of the first episodes."""
    demos = [file[f"data/demo_{i}/obs"] for i in range(min(episodes, len(file["data"])))]
    return [[obs[camera] for camera in sorted(obs) if camera.startswith("image_")] for obs in demos]
