"""Looking at collected demonstrations: a sheet of pictures along each episode, and a video."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from gap_vla.core.marks import HDF5
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
    for other in (path.with_suffix(suffix) for suffix in HDF5 if suffix != path.suffix):
        if other.exists():
            shared = f"{path.stem}.png and {path.stem}.mp4"
            raise OutputError(f"{other} is there, and {shared} would be of both; choose another name, or --show 0")
    claim(path.with_suffix(".png"), "demos_sheet", suffixes=(".png",), named=False)
    claim(path.with_suffix(".mp4"), "demos_video", suffixes=(".mp4",), named=False)


def contact_sheet(
    path: str | Path, *, beside: str | Path | None = None, episodes: int = 4, columns: int = 8, scale: int = 2
) -> Path:
    """Writes a PNG beside a collection: one row per episode and camera, `columns` pictures from start to end.

    Args:
        beside: where the collection will be; default: where it is.

    Returns:
        Path of the picture, `<path without suffix>.png`.
    """
    from PIL import Image

    path = Path(path)
    rows = [film_strip(frames, columns) for frames in _films(path, episodes)]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    out = Path(beside or path).with_suffix(".png")
    with writing(out, "demos_sheet") as temporary:
        sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(temporary)
    return out


def video(path: str | Path, *, beside: str | Path | None = None, episodes: int = 4, scale: int = 4) -> Path:
    """Writes an MP4 beside a collection: the first episodes one after the other, in real time, cameras side by side.

    Args:
        beside: where the collection will be; default: where it is.

    Returns:
        Path of the video, `<path without suffix>.mp4`.
    """
    path = Path(path)
    with opened(path) as file:
        rate = int(file["data"].attrs["control_hz"])
        per_episode = len(_cameras(file["data/demo_0"]))
    films = _films(path, episodes)
    frames = (
        np.concatenate(cameras, axis=1)
        for first in range(0, len(films), per_episode)
        for cameras in zip(*films[first : first + per_episode])
    )
    return write_video(Path(beside or path).with_suffix(".mp4"), frames, "demos_video", fps=rate, scale=scale)


def _films(path: Path, episodes: int) -> list[np.ndarray]:
    """uint8[T, h, w, 3] of the first episodes, camera after camera."""
    with opened(path) as file:
        data = file["data"]
        chosen = [data[f"demo_{i}"] for i in range(min(episodes, len(data)))]
        return [demo["obs"][camera][:] for demo in chosen for camera in _cameras(demo)]


def _cameras(demo: h5py.Group) -> list[str]:
    return sorted(key for key in demo["obs"] if key.startswith("image_"))
