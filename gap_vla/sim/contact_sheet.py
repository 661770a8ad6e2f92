"""Looking at collected demonstrations: a sheet of pictures along each episode, and a video."""

from __future__ import annotations

import glob
from pathlib import Path

import h5py
import numpy as np

from gap_vla.core.marks import HDF5, suffix_of
from gap_vla.core.outputs import OutputError, claim, writing
from gap_vla.demos.hdf5_members import opened
from gap_vla.drawing.episode import film_strip
from gap_vla.drawing.video import write_video


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

    sheet = Image.fromarray(np.concatenate([film_strip(frames, 8) for frames in _films(path, episodes)], axis=0))
    out = beside.with_suffix(".png")
    with writing(out, "demos_sheet") as temporary:
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(temporary)
    return out


def video(path: Path, beside: Path, episodes: int) -> Path:
    """Writes `<beside without suffix>.mp4`: the first episodes one after the other, in real time, cameras side by side.

    Args:
        path: the collection; beside: where it will be.
    """
    with opened(path) as file:
        rate = int(file["data"].attrs["control_hz"])
        per_episode = len(_cameras(file["data/demo_0"]))
    films = _films(path, episodes)
    frames = (
        np.concatenate(cameras, axis=1)
        for first in range(0, len(films), per_episode)
        for cameras in zip(*films[first : first + per_episode])
    )
    return write_video(beside.with_suffix(".mp4"), frames, "demos_video", fps=rate, scale=4)


def _films(path: Path, episodes: int) -> list[np.ndarray]:
    """uint8[T, h, w, 3] of the first episodes, camera after camera."""
    with opened(path) as file:
        data = file["data"]
        chosen = [data[f"demo_{i}"] for i in range(min(episodes, len(data)))]
        return [demo["obs"][camera][:] for demo in chosen for camera in _cameras(demo)]


def _cameras(demo: h5py.Group) -> list[str]:
    return sorted(key for key in demo["obs"] if key.startswith("image_"))
