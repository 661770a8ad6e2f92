"""The arithmetic of `Augmentation`, compiled: TensorFlow's image operations with given parameters, on float32.

Pictures are worked on channel by channel and without branches per pixel, so that the compiler uses vector instructions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_UNROUNDED = {"nnan", "ninf", "nsz"}
"""Numba's fast-math flags that change no number of pictures. `reassoc`, which `True` has too, makes the last bit of a
number depend on where the compiler inlines: a process that compiles drew other pictures than one that finds the
compiled code in the cache."""

_ZERO, _ONE, _TWO, _THREE, _FOUR, _SIX = (np.float32(n) for n in (0, 1, 2, 3, 4, 6))


@njit(cache=True, nogil=True)
def change_frames(windows, real, parameters):  # type: ignore[no-untyped-def]
    """Changes uint8[B, W, h, w, 3] in place where bool[B, W] is True; float32[B, 8] as `Augmentation.parameters`."""
    batch, length, height, width, _ = windows.shape
    planes = np.empty((3, height * width), np.float32)
    for b in range(batch):
        p = parameters[b]
        for t in range(length):
            if real[b, t]:
                _crop(windows[b, t], p[0], p[1], p[2], p[3], planes)
                if p[4] != 0 or p[5] != 1:
                    for c in range(3):
                        _brightness_and_contrast(planes[c], p[4], p[5])
                if p[6] != 1 or p[7] != 0:
                    _saturation_and_hue(planes[0], planes[1], planes[2], p[6], p[7])
                _store(planes, windows[b, t])


@njit(cache=True, nogil=True)
def _crop(frame, top, left, tall, wide, planes):  # type: ignore[no-untyped-def]
    """tf.image.crop_and_resize to the same size, bilinear, in [0, 1]."""
    height, width, _ = frame.shape
    first, second, share = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.float32)
    for j in range(width):
        x = left * np.float32(width - 1) + np.float32(j) * wide
        first[j] = min(int(x), width - 1)
        second[j] = min(first[j] + 1, width - 1)
        share[j] = x - np.float32(first[j])
    unit = np.float32(1 / 255)
    for i in range(height):
        y = top * np.float32(height - 1) + np.float32(i) * tall
        y0 = min(int(y), height - 1)
        upper, lower = frame[y0], frame[min(y0 + 1, height - 1)]
        down = y - np.float32(y0)
        for j in range(width):
            a, b, fx = first[j], second[j], share[j]
            for c in range(3):
                above = np.float32(upper[a, c]) + (np.float32(upper[b, c]) - np.float32(upper[a, c])) * fx
                below = np.float32(lower[a, c]) + (np.float32(lower[b, c]) - np.float32(lower[a, c])) * fx
                planes[c, i * width + j] = (above + (below - above) * down) * unit


@njit(cache=True, nogil=True, fastmath=_UNROUNDED)
def _brightness_and_contrast(plane, brightness, contrast):  # type: ignore[no-untyped-def]
    """tf.image.adjust_brightness, adjust_contrast about the channel's mean; each cut to [0, 1]."""
    total = _ZERO
    for k in range(plane.size):
        plane[k] = min(max(plane[k] + brightness, _ZERO), _ONE)
        total += plane[k]
    shift = total / np.float32(plane.size) * (_ONE - contrast)
    for k in range(plane.size):
        plane[k] = min(max(plane[k] * contrast + shift, _ZERO), _ONE)


@njit(cache=True, nogil=True, fastmath=_UNROUNDED)
def _saturation_and_hue(red, green, blue, saturation, hue):  # type: ignore[no-untyped-def]
    """HSV saturation times a factor, cut to 1, and hue turned: tf.image.adjust_saturation and adjust_hue."""
    for k in range(red.size):
        r, g, b = red[k], green[k], blue[k]
        value = max(r, max(g, b))
        spread = value - min(r, min(g, b))
        inverse = _ONE / (spread if spread > _ZERO else _ONE)
        h = _FOUR + (r - g) * inverse
        h = _TWO + (b - r) * inverse if value == g else h
        h = (g - b) * inverse if value == r else h
        h += _SIX * hue
        h -= _SIX * np.floor(h / _SIX)
        chroma = value * min(spread / (value if value > _ZERO else _ONE) * saturation, _ONE)
        low = value - chroma
        red[k] = low + chroma * min(max(abs(h - _THREE) - _ONE, _ZERO), _ONE)
        green[k] = low + chroma * min(max(_TWO - abs(h - _TWO), _ZERO), _ONE)
        blue[k] = low + chroma * min(max(_TWO - abs(h - _FOUR), _ZERO), _ONE)


@njit(cache=True, nogil=True)
def _store(planes, frame):  # type: ignore[no-untyped-def]
    """tf.image.convert_image_dtype(…, uint8, saturate=True)."""
    height, width, _ = frame.shape
    for i in range(height):
        for j in range(width):
            for c in range(3):
                frame[i, j, c] = np.uint8(min(planes[c, i * width + j] * np.float32(255.5), np.float32(255)))
