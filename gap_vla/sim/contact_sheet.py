"""Looking at collected demonstrations: a sheet of pictures along each episode, and a video."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np


def contact_sheet(path: str | Path, *, episodes: int = 4, columns: int = 8, scale: int = 2) -> Path:
    """Writes a PNG beside a collection: one row per episode and camera, `columns` pictures from start to end.

    Returns:
        Path of the picture, `<path without suffix>.png`.
    """
    from PIL import Image

    path = Path(path)
    rows = []
    for frames in _films(path, episodes):
        chosen = np.linspace(0, len(frames) - 1, columns).round().astype(int)
        rows.append(np.concatenate(list(frames[chosen]), axis=1))
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    out = path.with_suffix(".png")
    temporary = out.with_name(f".{os.getpid()}.{out.name}")
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(temporary)
    os.replace(temporary, out)
    return out


def video(path: str | Path, *, episodes: int = 4, scale: int = 4) -> Path:
    """Writes an MP4 beside a collection: the first episodes one after the other, in real time, cameras side by side.

    Returns:
        Path of the video, `<path without suffix>.mp4`.
    """
    import imageio.v2 as imageio

    path = Path(path)
    with h5py.File(path, "r") as file:
        rate = int(file["data"].attrs["control_hz"])
        per_episode = len(_cameras(file["data/demo_0"]))
    films = _films(path, episodes)
    out = path.with_suffix(".mp4")
    temporary = out.with_name(f".{os.getpid()}.{out.name}")
    with imageio.get_writer(temporary, fps=rate, macro_block_size=None, codec="libx264") as writer:
        for first in range(0, len(films), per_episode):
            for frames in zip(*films[first : first + per_episode]):
                writer.append_data(  # type: ignore[attr-defined]
                    np.concatenate(frames, axis=1).repeat(scale, 0).repeat(scale, 1)
                )
    os.replace(temporary, out)
    return out


def _films(path: Path, episodes: int) -> list[np.ndarray]:
    """uint8[T, h, w, 3] of the first episodes, camera after camera."""
    with h5py.File(path, "r") as file:
        data = file["data"]
        chosen = [data[f"demo_{i}"] for i in range(min(episodes, len(data)))]
        return [demo["obs"][camera][:] for demo in chosen for camera in _cameras(demo)]


def _cameras(demo: h5py.Group) -> list[str]:
    return sorted(key for key in demo["obs"] if key.startswith("image_"))
