"""The first training batch as a picture: what the model sees, with the ρ of every window step below its frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.core.files import replacing

STRIP = 6  # height of the ρ strip, pixels of the enlarged frame
LARGEST = 256  # pixels of a frame's longer side; larger ones are thinned out, and none is enlarged beyond that
LOW, HIGH = np.array([60, 90, 200]), np.array([240, 70, 40])  # blue: consistent motion, red: transition


def batch_picture(batch: Mapping[str, Any], columns: int = 8, rows: int = 4, scale: int = 2) -> np.ndarray:
    """Frames of the first windows in a grid of `columns` times `rows`: every window shows its cameras one below the
    other, its steps side by side, and under each frame, if ρ is known, a strip from blue (0) to red (1). Padded steps
    are dark.

    Args:
        batch: with `observation/image_*` uint8[B, W, h, w, 3], and, if ρ is known, `rho` float32[B, W].

    Returns:
        uint8[H, W, 3].
    """
    observation = batch["observation"]
    cameras = sorted(key for key in observation if key.startswith("image_"))
    there, rho = observation["timestep_pad_mask"], batch.get("rho")
    count = min(columns * rows, len(there))
    parts = [_resized(observation[camera][:count], scale) for camera in cameras]
    widest = max(part.shape[3] for part in parts)
    parts = [np.pad(part, ((0, 0),) * 3 + ((0, widest - part.shape[3]), (0, 0))) for part in parts]
    if rho is not None:
        colours = (LOW + rho[:count, :, None, None, None] * (HIGH - LOW)).astype(np.uint8)
        parts.append(np.broadcast_to(colours, (*there[:count].shape, STRIP, parts[0].shape[3], 3)))
    tiles = np.concatenate(parts, axis=2)
    tiles[~there[:count]] //= 3
    windows = np.concatenate(list(np.moveaxis(tiles, 1, 0)), axis=2)
    margins = ((0, -count % columns), (2, 2), (2, 2), (0, 0))  # the first: blank ones at the end of the last row
    windows = np.pad(windows, margins, constant_values=255)
    return np.concatenate([np.concatenate(windows[i : i + columns], 1) for i in range(0, len(windows), columns)])


def _resized(frames: np.ndarray, scale: int) -> np.ndarray:
    longest = max(frames.shape[2:4])
    thinned, scale = -(-longest // LARGEST), max(1, min(scale, LARGEST // longest))
    return frames[:, :, ::thinned, ::thinned].repeat(scale, 2).repeat(scale, 3)


def save_batch_picture(batch: Mapping[str, Any], path: Path) -> None:
    """Writes `batch_picture` as PNG."""
    with replacing(path) as temporary:
        Image.fromarray(batch_picture(batch)).save(temporary, format="PNG")
