"""The arithmetic of `Augmentation`, compiled: TensorFlow's image operations with given parameters, on float32."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def change_frames(windows, real, parameters):  # type: ignore[no-untyped-def]
    """Changes uint8[B, W, h, w, 3] in place where bool[B, W] is True; float32[B, 8] as `Augmentation.parameters`."""
    batch, length, height, width, _ = windows.shape
    buffer = np.empty((height, width, 3), np.float32)
    for b in range(batch):
        p = parameters[b]
        for t in range(length):
            if real[b, t]:
                _crop(windows[b, t], p[0], p[1], p[2], p[3], buffer)
                _recolour(buffer, p[4], p[5], p[6], p[7])
                _store(buffer, windows[b, t])


@njit(cache=True, nogil=True)
def _crop(frame, top, left, tall, wide, out):  # type: ignore[no-untyped-def]
    """tf.image.crop_and_resize to the same size, bilinear, in [0, 1]."""
    height, width, _ = frame.shape
    unit = np.float32(1 / 255)
    for i in range(height):
        y = top * (height - 1) + i * tall
        y0 = min(int(y), height - 1)
        y1 = min(y0 + 1, height - 1)
        fy = np.float32(y - y0)
        for j in range(width):
            x = left * (width - 1) + j * wide
            x0 = min(int(x), width - 1)
            x1 = min(x0 + 1, width - 1)
            fx = np.float32(x - x0)
            for c in range(3):
                a = np.float32(frame[y0, x0, c])
                b = np.float32(frame[y1, x0, c])
                upper = a + (np.float32(frame[y0, x1, c]) - a) * fx
                lower = b + (np.float32(frame[y1, x1, c]) - b) * fx
                out[i, j, c] = (upper + (lower - upper) * fy) * unit


@njit(cache=True, nogil=True)
def _recolour(image, brightness, contrast, saturation, hue):  # type: ignore[no-untyped-def]
    height, width, _ = image.shape
    zero, one = np.float32(0), np.float32(1)
    if brightness != 0 or contrast != 1:
        mean = np.zeros(3)
        for i in range(height):
            for j in range(width):
                for c in range(3):
                    value = min(max(image[i, j, c] + brightness, zero), one)
                    image[i, j, c] = value
                    mean[c] += value
        for c in range(3):
            shift = np.float32(mean[c] / (height * width)) * (one - contrast)
            for i in range(height):
                for j in range(width):
                    image[i, j, c] = min(max(image[i, j, c] * contrast + shift, zero), one)
    if saturation != 1 or hue != 0:
        for i in range(height):
            for j in range(width):
                _turn(image[i, j], saturation, hue)


@njit(cache=True, nogil=True, inline="always")
def _turn(pixel, saturation, hue):  # type: ignore[no-untyped-def]
    """HSV saturation times a factor, cut to 1, and hue turned, as tf.image.adjust_saturation and adjust_hue."""
    zero, one, six = np.float32(0), np.float32(1), np.float32(6)
    r, g, b = pixel[0], pixel[1], pixel[2]
    value = max(r, g, b)
    spread = value - min(r, g, b)
    if spread <= zero:
        return
    if value == r:
        h = (g - b) / spread
    elif value == g:
        h = (b - r) / spread + np.float32(2)
    else:
        h = (r - g) / spread + np.float32(4)
    h += six * hue
    h -= six * np.floor(h / six)
    chroma = value * min(spread / value * saturation, one)
    low = value - chroma
    pixel[0] = low + chroma * min(max(abs(h - np.float32(3)) - one, zero), one)
    pixel[1] = low + chroma * min(max(np.float32(2) - abs(h - np.float32(2)), zero), one)
    pixel[2] = low + chroma * min(max(np.float32(2) - abs(h - np.float32(4)), zero), one)


@njit(cache=True, nogil=True)
def _store(image, frame):  # type: ignore[no-untyped-def]
    """tf.image.convert_image_dtype(…, uint8, saturate=True)."""
    height, width, _ = frame.shape
    for i in range(height):
        for j in range(width):
            for c in range(3):
                frame[i, j, c] = np.uint8(min(image[i, j, c] * np.float32(255.5), np.float32(255)))
