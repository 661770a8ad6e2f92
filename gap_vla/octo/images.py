"""Resizing and cropping of images as TensorFlow does it, in numpy, so that a rollout needs no TensorFlow."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, UInt8


def prepare_image(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int] | None = None, central_area: float | None = None
) -> UInt8[np.ndarray, "H W c"]:
    """uint8[h, w, c] resized to `size` = (height, width), then cropped to the central fraction of its area.

    Resizing takes the antialiased Lanczos kernel of radius 3; the crop is stretched back bilinearly. Rounding and
    clipping come once, at the end, as the overshoot of the first step counts in the second.
    """
    x = image.astype(np.float32)
    if size is not None and image.shape[:2] != tuple(size):
        rows, columns = (_lanczos3_weights(old, new) for old, new in zip(image.shape, size))
        x = np.einsum("ih,jw,hwc->ijc", rows, columns, x, optimize=True)
    if central_area is not None:
        side = np.sqrt(central_area)
        for axis in (0, 1):
            x = _stretch(x, axis, (1 - side) / 2, (1 + side) / 2)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _stretch(image: np.ndarray, axis: int, start: float, stop: float) -> np.ndarray:
    last = image.shape[axis] - 1
    position = np.linspace(start * last, stop * last, image.shape[axis])
    below = np.floor(position).astype(int)
    shape = [1, 1, 1]
    shape[axis] = -1
    fraction = (position - below).astype(np.float32).reshape(shape)
    low = np.take(image, below, axis=axis).astype(np.float32)
    high = np.take(image, np.minimum(below + 1, last), axis=axis).astype(np.float32)
    return low + (high - low) * fraction


@functools.lru_cache(maxsize=16)
def _lanczos3_weights(size: int, new_size: int) -> Float[np.ndarray, "{new_size} {size}"]:
    """float32[new_size, size], rows sum to 1; the kernel widens when shrinking."""
    scale = size / new_size
    centre = (np.arange(new_size) + 0.5) * scale - 0.5
    x = (np.arange(size)[None, :] - centre[:, None]) / max(scale, 1.0)
    kernel = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
