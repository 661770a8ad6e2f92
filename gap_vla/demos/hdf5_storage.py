"""What of an HDF5 file's arrays lies on the disk, and through which filters it went."""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import h5py

_GZIP, _SHUFFLE, _CHECKSUM = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
_BLOCK = 4096
"""Bytes of which a file system says together that they are a hole."""


_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def behind_end(path: Path) -> int:
    """How many bytes, not all of them 0, follow those that the file's superblock counts, which the library passes over;
    0 also where no superblock is found."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as stream:
        for start in (0, *(512 << power for power in range(24))):
            stream.seek(start)
            head = stream.read(64)
            if head[:8] == _SIGNATURE:
                break
            if start > size:
                return 0
        version = head[8]
        width, at = (head[13], 24 + 4 * (version == 1)) if version < 2 else (head[9], 12)
        base, end = (int.from_bytes(head[at + k * width : at + (k + 1) * width], "little") for k in (0, 2))
        end += start - base  # a block that was put before the file moves all of it
        if version > 3 or width not in (2, 4, 8):  # damaged, which the library names
            return 0
        return size - end if first_filled(stream, end) < size else 0
    return 0


def first_filled(stream: BinaryIO, start: int) -> int:
    """The block that holds the first byte from a place on that is not 0; the end, if there is none. Holes are not
    read."""
    end = stream.seek(0, os.SEEK_END)
    while start < end:
        try:
            start = stream.seek(start, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            break
        if (block := stream.read(_BLOCK << 8)).strip(b"\0"):
            return start
        start += len(block)
    return end


def is_cut_off(pictures: h5py.Dataset) -> bool:
    """Whether one, or a chunk of them, is a hole in the file, as an interrupted copy leaves it; in a file that was made
    sparse, black ones are."""
    file, place = Path(pictures.file.filename), pictures.id.get_offset()
    if place is not None:
        size = pictures.id.get_storage_size()
        return _is_hole(file, place, size, size // len(pictures))
    return any(_is_hole(file, chunk.byte_offset, chunk.size, chunk.size) for chunk in chunks_of(pictures))


def chunks_of(found: h5py.Dataset) -> list[Any]:
    """What is stored of an array in chunks: `chunk_offset` in the array, `byte_offset` and `size` in the file."""
    chunks: list[Any] = []
    if found.chunks:
        found.id.chunk_iter(chunks.append)
    return chunks


def filters_of(found: h5py.Dataset) -> list[int]:
    """The numbers of the filters, such as compression, that an array goes through."""
    plan = found.id.get_create_plist()
    return [plan.get_filter(place)[0] for place in range(plan.get_nfilters())]


def odd_chunk(found: h5py.Dataset) -> tuple[int, ...] | None:
    """Where in an array begins a chunk of another size than a chunk is, as it is stored or gzip unpacks it. HDF5 takes
    what lies behind a short one in memory for the rest, or ends the process by SIGSEGV. None: there is none, or the
    array goes through other filters. What cannot be unpacked is HDF5's to name."""
    applied = filters_of(found)
    if not found.chunks or {*applied} - {_GZIP, _SHUFFLE, _CHECKSUM}:
        return None
    size = math.prod(found.chunks) * found.id.get_type().get_size()
    for chunk in chunks_of(found):
        if not applied:
            if chunk.size != size:
                return tuple(chunk.chunk_offset)
            continue
        left_out, held = found.id.read_direct_chunk(chunk.chunk_offset)
        try:
            for at, number in reversed([*enumerate(applied)]):
                if number == _CHECKSUM and not left_out >> at & 1:
                    held = held[:-4]
                if number == _GZIP and not left_out >> at & 1:
                    held = zlib.decompressobj().decompress(held, size + 5)
        except zlib.error:
            continue
        if len(held) != size:
            return tuple(chunk.chunk_offset)
    return None


def _is_hole(path: Path, start: int, size: int, row: int) -> bool:
    """Whether of `size` bytes from `start` on, in rows of so many, a whole row is not on the disk, but for the blocks
    that it shares with its neighbours."""
    at, end = start, start + size
    shared = _BLOCK if row >= 8 * _BLOCK else 0
    with path.open("rb", buffering=0) as stream, contextlib.suppress(OSError):  # behind the end, or not known there
        while (at := stream.seek(at, os.SEEK_HOLE)) < end:
            first = start + max(-(-(at - shared - start) // row), 0) * row
            try:
                at = stream.seek(at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                at = end
            if first + row <= min(at + shared, end):
                return True
    return False
