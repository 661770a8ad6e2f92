"""openpi's message format: msgpack, with numpy arrays as small maps. Never pickles, never runs what it receives.

An array is `{b"__ndarray__": True, b"data": bytes (C order), b"dtype": str such as "<f4", b"shape": [ints]}`, a numpy
scalar `{b"__npgeneric__": True, b"data": number, b"dtype": str}`.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np


def pack(content: Any) -> bytes:
    """Bytes of nested dicts, lists, strings, numbers and numpy arrays.

    >>> unpack(pack({"state": np.arange(3, dtype=np.float32)}))["state"]
    array([0., 1., 2.], dtype=float32)
    """
    return msgpack.packb(content, default=_encode)


def unpack(message: bytes) -> Any:
    """The content of a message; arrays are read-only views of it. Raises ValueError: it is none of this format."""
    try:
        return msgpack.unpackb(message, object_hook=_decode)
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"no message of openpi's protocol ({type(error).__name__}: {error})") from error


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{type(value).__name__} cannot be sent")
    name = _plain(value.dtype).str
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": name, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": name}


def _decode(found: dict) -> Any:
    if b"__ndarray__" in found:
        return np.ndarray(found[b"shape"], _plain(np.dtype(found[b"dtype"])), found[b"data"])
    if b"__npgeneric__" in found:
        return _plain(np.dtype(found[b"dtype"])).type(found[b"data"])
    return found


def _plain(dtype: np.dtype) -> np.dtype:
    """Booleans, numbers and fixed-width strings travel; objects, structures and complex numbers do not."""
    if dtype.kind not in "biufSU":
        raise ValueError(f"arrays of {dtype} do not travel")
    return dtype
