"""Named arrays of one recording to an Episode, with errors that name the place: what free-form readers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.demos.layout import StateLayout
from gap_vla.episode import Episode, EpisodeError

IMAGE_NAMES = ("image_primary", "image_wrist")


def make_episode(
    arrays: Mapping[str, Any],
    where: str,
    *,
    state_key: str,
    action_key: str,
    image_keys: Mapping[str, str],
    layout: StateLayout,
    images: bool,
    **rest: Any,
) -> Episode:
    """Picks state, action and cameras (file's name to camera's name) out of one recording's arrays.

    Raises:
        EpisodeError: a key is missing (says which there are), or a field has another shape or length.
    """
    for key in (state_key, action_key, *(image_keys if images else ())):
        if key not in arrays:
            raise EpisodeError(
                f"{where}: no {key!r} (found: {', '.join(map(str, arrays)) or 'nothing'}); name it with --reader"
            )
    state, action = np.asarray(arrays[state_key]), np.asarray(arrays[action_key])
    for key, value in ((state_key, state), (action_key, action)):
        if value.ndim != 2 or value.dtype.kind not in "fiu":
            raise EpisodeError(
                f"{where}: {key!r} is {value.dtype}{list(value.shape)}, not numbers of shape (T, width); "
                "store one row per step"
            )
    cameras = {name: as_frames(arrays[key], f"{where}: {key!r}") for key, name in image_keys.items()} if images else {}
    phase = arrays.get("phase")
    rest["metadata"] = {**rest.get("metadata", {}), **layout.facts}
    return Episode(
        images=cameras,
        proprio=layout.to_proprio(state.astype(np.float32), where),
        action=action.astype(np.float32),
        phase=None if phase is None else np.asarray(phase).astype(str),
        **rest,
    ).validate()


def as_frames(value: Any, where: str) -> np.ndarray:
    """uint8[T, h, w, 3] from uint8 frames, channels first or last."""
    frames = np.asarray(value)
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise EpisodeError(
            f"{where} is {frames.dtype}{list(frames.shape)}, not uint8 pictures (T, h, w, 3); "
            "store pictures as RGB bytes"
        )
    return np.ascontiguousarray(frames)


def resized(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Frames of another height and width (Lanczos, antialiased), or unchanged."""
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    height, width = size
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames])
