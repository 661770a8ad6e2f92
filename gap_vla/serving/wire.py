"""openpi's message format: msgpack, with numpy arrays as small maps. Never pickles, never runs what it receives.

An array is `{b"__ndarray__": True, b"data": bytes (C order), b"dtype": str such as "<f4", b"shape": [ints]}`, a numpy
scalar `{b"__npgeneric__": True, b"data": number, b"dtype": str}`.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from gap_vla.core.foreign import shown

_KINDS = "biufSU"
"""Kinds of dtype that may travel: booleans, numbers, fixed-width strings; no objects, structures or complex numbers."""


MAX_ITEMS, MAX_ITEMS_TOGETHER = 10_000, 100_000
"""Entries of one list or map, and of all in a message: in one byte each, millions would become as many objects."""

MAX_DEPTH = 100
"""Lists and maps that hold each other; whoever walks through thousands of them ends in Python's recursion limit."""


class WireError(ValueError):
    """A message that is not of this format, or holds no observation; says what was found, for whoever sent it."""


def pack(content: Any) -> bytes:
    """Bytes of nested dicts, lists, strings, numbers and numpy arrays.

    >>> unpack(pack({"state": np.arange(3, dtype=np.float32)}))["state"]
    array([0., 1., 2.], dtype=float32)

    Raises:
        WireError: something in it cannot travel.
    """
    try:
        return msgpack.packb(content, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"cannot be sent: {error}") from error


def unpack(message: bytes) -> Any:
    """The content of a message. Arrays are read-only views of it.

    Raises:
        WireError: no msgpack, an array whose bytes do not fit its shape, or whose type may not travel, or too many
            entries (`MAX_ITEMS`, `MAX_ITEMS_TOGETHER`; an array is a map of four and a list of its sides), or nested
            deeper than `MAX_DEPTH`.
    """
    seen = 0

    def counted(items: Any) -> Any:
        nonlocal seen
        seen += len(items)
        if seen > MAX_ITEMS_TOGETHER:
            raise WireError(f"more than {MAX_ITEMS_TOGETHER} entries in lists and maps; send numbers as numpy arrays")
        return items

    try:
        content = msgpack.unpackb(
            message,
            object_pairs_hook=lambda pairs: _decode(_unique(counted(pairs))),
            list_hook=counted,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except WireError:
        raise
    except Exception as error:  # msgpack has many ways to say no, some of them plain ValueError or RecursionError
        if isinstance(error, ValueError) and "exceeds max_" in f"{error}":
            raise WireError(f"a list or map of more than {MAX_ITEMS} entries; send numbers as numpy arrays") from error
        raise WireError(f"not a msgpack message ({f'{type(error).__name__}: {error}'.removesuffix(': ')})") from error
    level = [content]
    for _ in range(MAX_DEPTH):
        held = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [inner for one in held for inner in one]
    if level:
        raise WireError(f"lists and maps that hold each other more than {MAX_DEPTH} deep")
    return content


def _encode(value: Any) -> Any:
    if np.ma.is_masked(value):
        raise TypeError("an array is masked in places; fill them in")
    if isinstance(value, np.ndarray):
        _checked_dtype(value.dtype.str)
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _checked_dtype(value.dtype.str)
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} is no number, string, list, dict or numpy array")


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise WireError("a key is given twice")
    return found


def _decode(found: dict) -> Any:
    if b"__ndarray__" in found:
        _require_known(found, b"__ndarray__", b"data", b"dtype", b"shape")
        return _array(found)
    if b"__npgeneric__" in found:
        _require_known(found, b"__npgeneric__", b"data", b"dtype")
        return _scalar(_checked_dtype(found.get(b"dtype")), found.get(b"data"))
    return found


def _require_known(found: dict, mark: bytes, *others: bytes) -> None:
    """What else a map says, as an order of its bytes, would not be followed."""
    if found[mark] is not True:
        raise WireError(f"{mark.decode()} is {str(found[mark])[:40]}, not true")
    if unknown := [_text(key) for key in found if key not in (mark, *others)]:
        known, found_too = ", ".join(key.decode() for key in others), ", ".join(unknown[:5])
        raise WireError(f"a map with {mark.decode()} holds {found_too} beside {known}, which means nothing")


def _text(key: Any) -> str:
    return (key.decode(errors="replace") if isinstance(key, bytes) else str(key))[:40]


def _array(found: dict) -> np.ndarray:
    dtype, shape, data = _checked_dtype(found.get(b"dtype")), found.get(b"shape"), found.get(b"data")
    sizes = isinstance(shape, list | tuple) and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    if not sizes or not isinstance(shape, list | tuple) or len(shape) > 32:
        raise WireError(f"an array with shape {str(shape)[:80]}")
    if not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
        length = len(data) if isinstance(data, bytes) else type(data).__name__
        raise WireError(f"an array of shape {tuple(shape)} and type {dtype} with data of length {length}")
    return np.ndarray(shape, dtype, data)


_OF_KIND: dict[str, tuple[type, ...]] = {"b": (bool,), "f": (int, float), "U": (str,), "S": (bytes,)}
"""What a scalar of a kind of dtype travels as; those that are not here as `int`."""


def _scalar(dtype: np.dtype, value: Any) -> np.generic:
    """The value as it is sent; what numpy would only make of it is none."""
    kinds, size = _OF_KIND.get(dtype.kind, (int,)), dtype.itemsize // (4 if dtype.kind == "U" else 1)
    fits = isinstance(value, kinds) and (dtype.kind == "b" or not isinstance(value, bool))
    if fits and isinstance(value, str | bytes):
        fits = len(value) <= size
    try:
        with np.errstate(over="ignore"):
            scalar = dtype.type(value) if fits else None
    except (ValueError, OverflowError):
        scalar = None
    if scalar is None or (isinstance(value, int | float) and math.isfinite(value) and not np.isfinite(scalar)):
        raise WireError(f"a numpy scalar of type {dtype} that is {shown(value)}")
    return scalar


def has_flags(value: Any) -> bool:
    """Whether it is True or False, or a list that holds one, or an array of them, which numpy takes for 1 and 0 among
    numbers."""
    if isinstance(value, list):
        return any(getattr(one, "dtype", None) == np.bool_ or has_flags(one) for one in value)
    return isinstance(value, bool | np.bool_)


def _checked_dtype(name: Any) -> np.dtype:
    try:
        dtype = np.dtype(name) if isinstance(name, str) and len(name) < 16 else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise WireError(f"an array of type {str(name)[:40]!r}; only booleans, numbers and fixed-width strings travel")
    return dtype
