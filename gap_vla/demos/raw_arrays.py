"""Bytes of a file to an array, for formats that say type, shape and order beside them."""

from __future__ import annotations

import math

import numpy as np


def array_of(content: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Plain numbers or text in this machine's byte order.

    Args:
        content: all bytes of the array.
        dtype: truth values, integers, floats or text; nothing that points anywhere.
        shape: whole numbers.
        order: "C" or "F".

    Raises:
        ValueError: another type, another number of bytes than declared, or text that is not Unicode.
    """
    if dtype.kind not in "biufUS" or not dtype.itemsize:
        raise ValueError(f"an array of {dtype}, not of plain numbers or text")
    if len(shape) > 32 or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"it declares an array {dtype}{list(shape)} and holds {len(content)} bytes of it")
    flat = np.frombuffer(content, dtype) if content else np.zeros(0, dtype)
    flat = flat.astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "b":
        flat = flat.view(np.uint8) != 0  # other bytes than 0 and 1 are no truth values
    if dtype.kind == "U" and flat.size:
        points = flat.view(np.uint32)
        if points.max() > 0x10FFFF or ((points >= 0xD800) & (points < 0xE000)).any():
            raise ValueError("it holds text that is not Unicode")
    return flat.reshape(shape, order="F" if order == "F" else "C")
