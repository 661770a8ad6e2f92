"""Arrays out of files that somebody else wrote: what they declare is compared with what is there, before it is read."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import FOREIGN, is_text, refuse_too_large, refusing, regular

_LONGEST_END = 22 + 0xFFFF
"""Bytes of the record that ends a zip, with the longest comment."""


def array_of(content: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Plain numbers or text in this machine's byte order; `content` is all bytes of the array, `order` "C" or "F".

    Raises ValueError: another type, another number of bytes than declared, or text that is not Unicode.
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


def read_arrays(
    file: Path, wanted: Callable[[str], bool] = lambda name: True, error: type[UserError] = EpisodeError
) -> dict[str, Any]:
    """The arrays of an npz by name: those that are wanted, None for the others, which are not looked at.

    Raises error: no whole npz, an array of objects, or one of another size than it declares; names file and array.
    """
    return _each(file, wanted, _array, error)


def forms(
    file: Path, wanted: Callable[[str], bool], error: type[UserError] = EpisodeError
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of those arrays of an npz that are wanted; only headers are read. Raises as `read_arrays`."""
    found = _each(file, wanted, lambda *at: _header(*at)[::2], error)
    return {name: form for name, form in found.items() if wanted(name)}


def _each(
    file: Path, wanted: Callable[[str], bool], read: Callable[..., Any], error: type[UserError]
) -> dict[str, Any]:
    if not is_text(str(file)):
        raise error(f"{str(file)!a}: its name is not UTF-8; rename it")
    if file.is_symlink() and not file.exists():
        advice = "mount or copy that, or remove the link"
        raise error(f"{file}: a link to {os.readlink(file)}, which is not there; {advice}")
    unreadable = refusing(f"{file}: not a readable .npz of plain arrays", "copy or write it again", error)
    with unreadable, zipfile.ZipFile(regular(file, error)) as archive:
        if before := min((member.header_offset for member in archive.infolist()), default=0):
            raise error(
                f"{file}: {before:,} bytes before its first array, as of files that were put together; write it again"
            )
        if behind := _behind_end(file):
            raise error(f"{file}: {behind:,} bytes behind its end, as of files that were put together; write it again")
        if any(member.flag_bits & 1 for member in archive.infolist()):
            raise error(f"{file}: its arrays are encrypted; write it again without a password")
        names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
        if len(set(names)) < len(names):
            raise error(f"{file}: {max(names, key=names.count)!r} is in it twice; write it again with one of each name")
        found = dict.fromkeys(names)
        for name, member in zip(names, archive.infolist()):
            if wanted(name):
                where = f"{file}: {name!r}"
                refuse_too_large(where, 4 * member.file_size, 4 * member.compress_size, error)  # copies are made of it
                with archive.open(member) as stream:
                    found[name] = read(stream, member, where, error)
        return found


def _behind_end(file: Path) -> int:
    """How many bytes lie behind the end of a zip and its comment, unless they are zeros, as of a tape's last block, or
    ends of lines."""
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _LONGEST_END))
        tail = stream.read()
    end = tail.rfind(b"PK\5\6")  # which zipfile has found
    rest = tail[end + 22 + int.from_bytes(tail[end + 20 : end + 22], "little") :]
    return len(rest) if rest.strip(b"\0\r\n") else 0


def _array(stream: IO[bytes], member: zipfile.ZipInfo, where: str, error: type[UserError]) -> np.ndarray:
    shape, by_columns, dtype = _header(stream, member, where, error)
    with refusing(where, "copy the file again", error):  # its checksum
        held = stream.read()
    with refusing(where, "store plain numbers or text, and write it again", error):
        return array_of(held, dtype, shape, "F" if by_columns else "C")


def _header(
    stream: IO[bytes], member: zipfile.ZipInfo, where: str, error: type[UserError]
) -> tuple[tuple[int, ...], bool, np.dtype]:
    longer = np.lib.format.read_array_header_2_0  # 3.0 is the same but for names of columns
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): longer, (3, 0): longer}
    header = headers[np.lib.format.read_magic(stream)]
    try:
        shape, by_columns, dtype = header(stream)
    except FOREIGN:
        raise error(f"{where}: its header describes no array; write it again") from None
    declared, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if declared != held and dtype.kind != "O":  # before so much is unpacked
        raise error(f"{where}: it declares an array {dtype}{list(shape)} and holds {held} bytes of it; write it again")
    return shape, by_columns, dtype
