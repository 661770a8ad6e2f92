"""An episode as a picture: frames of each camera over the ρ strip with its change points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gap_vla.core.episode import Episode
from gap_vla.core.outputs import writing

_FRAME, _STRIP, _LABEL = 112, 40, 16
_INK, _RHO, _POINT = (20, 20, 20), (214, 90, 48), (40, 80, 160)


def episode_picture(episode: Episode, frames: int = 8) -> Image.Image:
    """Frames at equal distances; below them ρ as a filled curve (0 to 1) and change points as vertical lines."""
    steps = np.linspace(0, len(episode) - 1, frames).round().astype(int)
    cameras = sorted(episode.images)
    width = frames * _FRAME
    height = _LABEL + len(cameras) * (_FRAME + _LABEL) + _STRIP + _LABEL
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    title = f"{episode.metadata.get('episode_id', '')}  {len(episode)} steps  {episode.language_instruction!r}"
    draw.text((4, 2), title, fill=_INK)
    top = _LABEL
    for camera in cameras:
        for column, step in enumerate(steps):
            frame = Image.fromarray(episode.images[camera][step]).resize((_FRAME - 2, _FRAME - 2))
            canvas.paste(frame, (column * _FRAME + 1, top))
        draw.text((4, top + _FRAME - 1), camera, fill=_INK)
        top += _FRAME + _LABEL
    _draw_rho(draw, episode, width, top)
    return canvas


def save_episode_picture(episode: Episode, path: Path) -> Path:
    """Writes the picture as PNG."""
    with writing(path, "dry_run") as temporary:
        episode_picture(episode).save(temporary, "png")
    return path


def _draw_rho(draw: ImageDraw.ImageDraw, episode: Episode, width: int, top: int) -> None:
    bottom = top + _STRIP
    draw.rectangle((0, top, width - 1, bottom), outline=(200, 200, 200))
    if episode.rho is None:
        draw.text((4, bottom + 2), "no rho", fill=_INK)
        return
    x = np.linspace(0, width - 1, len(episode))
    curve = [(float(a), float(bottom - r * (_STRIP - 2))) for a, r in zip(x, episode.rho)]
    draw.polygon([(0.0, float(bottom)), *curve, (float(width - 1), float(bottom))], fill=_RHO)
    marks = episode.change_point if episode.change_point is not None else np.zeros(len(episode), bool)
    points = np.flatnonzero(marks)
    for point in points:
        draw.line((float(x[point]), top, float(x[point]), bottom), fill=_POINT, width=2)
    draw.text((4, bottom + 2), f"rho 0..1, mean {episode.rho.mean():.2f}; {len(points)} change points", fill=_INK)
