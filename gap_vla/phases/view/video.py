"""An episode as a video: the camera image over a strip of ρ with the change points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gap_vla.core.episode import EpisodeError
from gap_vla.drawing import video
from gap_vla.phases.view.episode_view import EpisodeView

SIDE, STRIP = 384, 96


def write_video(view: EpisodeView, path: str | Path, *, fps: float | int = 20) -> Path:
    """Writes an mp4 (H.264).

    Args:
        fps: frames per second; the recording's own rate plays it in real time.

    Returns:
        The path.

    Raises:
        EpisodeError: the episode has no camera images.
    """
    if view.frames is None:
        raise EpisodeError(f"{view.title}: no camera images, so no video; write the page or the picture instead")
    return video.write_video(Path(path), video_frames(view), "episode", fps=fps)


def video_frames(view: EpisodeView) -> Iterator[np.ndarray]:
    """uint8[SIDE + STRIP, SIDE, 3] per step; camera images are fitted into a square."""
    assert view.frames is not None
    strip = _strip(view)
    for step, frame in enumerate(view.frames):
        canvas = Image.new("RGB", (SIDE, SIDE + STRIP), "black")
        scale = SIDE / max(frame.shape[:2])
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        canvas.paste(Image.fromarray(frame).resize(size), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
        canvas.paste(strip, (0, SIDE))
        draw = ImageDraw.Draw(canvas)
        x = _x(step, len(view))
        draw.line([(x, SIDE + 14), (x, SIDE + STRIP)], fill="black", width=2)
        label = f"step {step}"
        if view.rho is not None:
            label += f"   rho {view.rho[step]:.2f}"
        if view.phases is not None:
            label += f"   {view.phases[step]}"
        draw.text((4, SIDE + 1), label, fill="black")
        yield np.asarray(canvas)


def _strip(view: EpisodeView) -> Image.Image:
    image = Image.new("RGB", (SIDE, STRIP), "white")
    draw = ImageDraw.Draw(image)
    for step in view.switches.tolist():
        for y in range(16, STRIP, 8):
            draw.line([(_x(step, len(view)), y), (_x(step, len(view)), y + 4)], fill=(60, 60, 60))
    for step in view.change_points.tolist():
        draw.line([(_x(step, len(view)), 16), (_x(step, len(view)), STRIP)], fill=(204, 34, 34), width=2)
    if view.rho is not None:
        line = [(_x(k, len(view)), STRIP - 2 - (STRIP - 20) * float(r)) for k, r in enumerate(view.rho)]
        if len(line) > 1:
            draw.line(line, fill=(31, 111, 235), width=2)
    return image


def _x(step: int, steps: int) -> int:
    return round(4 + (SIDE - 8) * step / max(steps - 1, 1))
