"""The first training batch as a picture: what the model sees, with the ρ of every window step below its frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.core.whole import replacing

STRIP = 6  # height of the ρ strip, pixels of the enlarged frame
LOW, HIGH = np.array([60, 90, 200]), np.array([240, 70, 40])  # blue: consistent motion, red: transition


def batch_picture(batch: Mapping[str, Any], columns: int = 8, rows: int = 4, scale: int = 2) -> np.ndarray:
    """Frames of the first windows in a grid.

    Args:
        batch: with `observation/image_*` uint8[B, W, h, w, 3], and, if ρ is known, `rho` float32[B, W].
        columns, rows: size of the grid in windows; every window shows its cameras one below the other, its steps side
            by side, and under each frame a strip from blue (ρ = 0) to red (ρ = 1). Padded steps are dark.

    Returns:
        uint8[H, W, 3].
    """
    observation = batch["observation"]
    cameras = sorted(key for key in observation if key.startswith("image_"))
    there, rho = observation["timestep_pad_mask"], batch.get("rho")
    count = min(columns * rows, len(there))
    tiles = []
    for index in range(count):
        steps = []
        for step in range(there.shape[1]):
            frames = [np.repeat(np.repeat(observation[c][index, step], scale, 0), scale, 1) for c in cameras]
            if rho is not None:
                colour = (LOW + float(rho[index, step]) * (HIGH - LOW)).astype(np.uint8)
                frames.append(np.broadcast_to(colour, (STRIP, frames[0].shape[1], 3)))
            tile = np.concatenate(frames)
            if not there[index, step]:
                tile = tile // 3
            steps.append(tile)
        tiles.append(np.pad(np.concatenate(steps, 1), ((2, 2), (2, 2), (0, 0)), constant_values=255))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)])


def save_batch_picture(batch: Mapping[str, Any], path: Path) -> None:
    """Writes `batch_picture` as PNG."""
    with replacing(path) as temporary:
        Image.fromarray(batch_picture(batch)).save(temporary, format="PNG")
