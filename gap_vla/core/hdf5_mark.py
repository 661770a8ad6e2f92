"""Our mark in an HDF5 file: the attribute `made_by`, and a data set with the checksum of all bytes but its own."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from gap_vla.core.hdf5_heap import damaged_heap
from gap_vla.core.hdf5_writing import writing_hdf5

if TYPE_CHECKING:
    import h5py

CHECK = "made_by_check"
"""The dataset that holds the checksum of all other bytes of the file, those of no array included."""
_LENGTH = 8
_BLOCK = 1 << 22
_UNREADABLE = (OSError, KeyError, RuntimeError, AttributeError, TypeError)
"""What h5py raises for what is damaged, or for another thing of that name."""


def write_mark(path: Path, mark: str) -> None:
    """Puts the mark into a finished file, and the checksum in the place of an older one."""
    with writing_hdf5(path, "r+") as file:
        place = put_mark(file, mark)
    write_check(path, place)


def put_mark(file: h5py.File, mark: str) -> int:
    """Puts the mark into a file that is otherwise whole; returns the place for `write_check`."""
    import numpy as np

    file.attrs["made_by"] = mark
    if CHECK in file:
        del file[CHECK]
    return file.create_dataset(CHECK, data=np.bytes_(b"-" * _LENGTH)).id.get_offset()


def write_check(path: Path, place: int) -> None:
    """Writes the checksum of a closed file to its place."""
    check = _check_of(path, place)
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(check)


def read_mark(path: Path, *, sound: bool = False) -> str:
    """What `made_by` says; empty if there is none that can be read. Reads all, if not known to be `sound`."""
    import h5py

    if sound or damaged_heap(path) is None:
        with contextlib.suppress(*_UNREADABLE), h5py.File(path) as file:
            return str(file.attrs.get("made_by", ""))
    return ""


def is_changed(path: Path) -> bool:
    """Whether a marked file is no longer as it was written, or its checksum is gone. Reads all."""
    import h5py

    try:
        with h5py.File(path) as file:
            note = file[CHECK]
            place = note.id.get_offset()  # None: in chunks, as none of ours is
            said = None if place is None else note[()]
    except _UNREADABLE:
        return True
    return place is None or said != _check_of(path, place)


def _check_of(path: Path, place: int) -> bytes:
    """The CRC-32 of a file without the checksum at `place`, as 8 hexadecimal digits."""
    found, left = 0, place
    with path.open("rb") as stream:
        while part := stream.read(min(_BLOCK, left)):
            found, left = zlib.crc32(part, found), left - len(part)
        stream.seek(place + _LENGTH)
        while part := stream.read(_BLOCK):
            found = zlib.crc32(part, found)
    return b"%08x" % found
