"""The one thing that the HDF5 library does not check itself: it hangs on damaged global heaps.

A global heap (`GCOL`) holds the text of attributes and data sets, objects of stated sizes one after another, the last
of which is the free space with the number 0. libhdf5 1.14 walks from one to the next by these sizes; free space of size
0 keeps it walking for ever.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_START = b"GCOL\x01\x00\x00\x00"
_HEADER = 16
_BLOCK = 1 << 24


def damaged_heap(path: Path) -> int | None:
    """The place of the first global heap of a file whose objects do not fill it; None if all do. Reads all of it."""
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as stream:
        for place in _places(stream):
            stream.seek(place)
            header = stream.read(_HEADER)
            length = struct.unpack("<Q", header[8:])[0] if len(header) == _HEADER else 0
            if not _HEADER <= length <= size - place or not _filled(stream.read(length - _HEADER)):
                return place
    return None


def _places(stream: BinaryIO) -> Iterator[int]:
    start = 0
    while True:
        try:
            start = stream.seek(start, os.SEEK_DATA)  # holes are not read
        except OSError:  # nothing but a hole is left
            return
        block = stream.read(_BLOCK)
        yield from (start + found.start() for found in re.finditer(_START, block))
        if len(block) < len(_START):
            return
        start += len(block) - len(_START) + 1


def _filled(objects: bytes) -> bool:
    place = 0
    while place + _HEADER <= len(objects):
        number, _, _, size = struct.unpack_from("<HHIQ", objects, place)
        if number == 0:  # free space; its size includes its own header
            return place + size == len(objects)
        place += _HEADER + (size + 7) // 8 * 8
    return place <= len(objects)
