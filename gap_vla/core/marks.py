"""What tells an output of ours from the files of others: the bytes `gap_vla:KIND` in it.

They stand in a chunk of a PNG, a box of an MP4, a comment of a page or a text, a key of a JSON object, an attribute of
an HDF5 file, and in a folder as the file `made_by.json`, which also lists what was written with it.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section
from gap_vla.core.hdf5_mark import read_mark, write_mark
from gap_vla.core.whole import HIDDEN, WITHIN, clear_leftovers, replacing

FOLDER_MARK = "made_by.json"
HDF5 = (".hdf5", ".h5")
_PART = 2**22
_PNG_HEAD = 33  # bytes: the signature and the chunk IHDR, which has to come first


def suffix_of(path: str | Path) -> str:
    """How a name ends, in small letters: `E.HTML` is a page."""
    return Path(path).suffix.lower()


def stamp(path: Path, kind: str) -> None:
    """Puts the mark into a file by its suffix, or into a folder with a list of its files."""
    mark = f"gap_vla:{kind}"
    if path.is_dir():
        clear_leftovers(path)
        while empty := list(_empty(path)):  # left where something of others lay in an unfinished one
            for folder in empty:
                folder.rmdir()
        files = {str(file.relative_to(path)): file_mark(file) for file in sorted(_files(path))}
        with replacing(path / FOLDER_MARK) as temporary:
            temporary.write_text(json.dumps({"made_by": mark, "files": files}, indent=1) + "\n")
    elif suffix_of(path) in HDF5:
        write_mark(path, mark)
    else:
        path.write_bytes(_STAMPS[suffix_of(path)](path.read_bytes(), mark))


def made_by(path: Path) -> str | None:
    """The kind of output that a file or folder is, or None if it is none of ours."""
    if path.is_dir():
        path = path / FOLDER_MARK
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        ends = stream.read(4096)
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
        ends += stream.read()
    suffix = suffix_of(path)
    if suffix in HDF5:
        ends = read_mark(path).encode(errors="replace")
    elif suffix == ".png":  # length, chunk, checksum
        ends = ends[_PNG_HEAD + 4 : _PNG_HEAD + 8 + int.from_bytes(ends[_PNG_HEAD : _PNG_HEAD + 4], "big")]
    found = re.fullmatch(_MARKS.get(suffix, b"MARK").replace(b"MARK", rb"gap_vla:([a-z_]+)"), ends, re.DOTALL)
    return found[1].decode() if found else None


def unlike_mark(folder: Path, error: type[UserError]) -> dict[str, str]:
    """Paths in a marked folder that are not as they were written with it: "missing", "changed" or "added".

    Raises `error` for a mark that is none.
    """
    known = Section.read(folder / FOLDER_MARK, error).section("files").values
    seen = {str(file.relative_to(folder)): file_mark(file) for file in [*_files(folder), *_empty(folder)]}
    return {
        name: "missing" if name not in seen else "changed" if name in known else "added"
        for name in sorted({*known, *seen})
        if name not in seen or known.get(name) != seen[name]
    }


def others_in(folder: Path, own: str) -> list[Path]:
    """What an unfinished folder holds that its writer did not make: files of other names than `own`, a regular
    expression of paths in it, allows; the folder itself if it is a file or a link."""
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        return [folder]
    names = {file: str(file.relative_to(folder)) for file in _files(folder)}
    return sorted(file for file, name in names.items() if file.is_symlink() or not re.fullmatch(own, name))


def closed_in(folder: Path) -> list[Path]:
    """Where writers of other users hide what they make in a folder."""
    hidden = (at / name for at, folders, _ in _walked(folder) for name in folders if HIDDEN.fullmatch(name))
    return [place for place in hidden if not os.access(place, os.R_OK) and place.is_dir()]  # not gone meanwhile


def is_unmarked(folder: Path) -> bool:
    """Whether nothing is in a folder but, perhaps, a mark that a killed writer has not finished."""
    marks = (HIDDEN.sub(r"\1", path.name) == FOLDER_MARK != path.name for path in folder.iterdir())
    return all(marks) and not any(_files(folder))


def file_mark(file: Path) -> str:
    """What tells a file from others at its place: its size and a checksum."""
    if file.is_symlink() or not file.is_file():
        return "an empty folder" if file.is_dir() and not file.is_symlink() else "a link, a pipe or a device"
    with file.open("rb") as stream:
        found, size = 0, os.fstat(stream.fileno()).st_size
        while part := stream.read(_PART):
            found = zlib.crc32(part, found)
    return _mark(size, found)


def content_mark(content: bytes) -> str:
    """The `file_mark` of a file that holds this."""
    return _mark(len(content), zlib.crc32(content))


def _mark(size: int, checksum: int) -> str:
    return f"{size} bytes, CRC-32 of all {checksum:08x}"


def _files(folder: Path) -> Iterator[Path]:
    """All but its mark and what writers hide."""
    for place, folders, files in _walked(folder):
        for name in files + [name for name in folders if (place / name).is_symlink()]:
            if place / name != folder / FOLDER_MARK and not WITHIN.fullmatch(f"{place.name}/{name}"):
                yield place / name


def _empty(folder: Path) -> Iterator[Path]:
    """Folders without anything in them, such as the mark of another program, but those of writers."""
    for place, folders, files in _walked(folder):
        if not folders and not files and place != folder and not HIDDEN.fullmatch(place.name):
            yield place


def _walked(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    def stop(error: OSError) -> None:
        hidden = isinstance(error, PermissionError) and HIDDEN.fullmatch(Path(error.filename).name)  # of another user
        if not hidden and not isinstance(error, FileNotFoundError):  # a writer has removed what it hid
            raise error

    return ((Path(place), folders, files) for place, folders, files in os.walk(folder, onerror=stop))


def _in_png(content: bytes, mark: str) -> bytes:
    chunk = b"tEXtmade_by\0" + mark.encode()
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:_PNG_HEAD] + whole + content[_PNG_HEAD:]


def _in_json(content: bytes, mark: str) -> bytes:
    value = {"made_by": mark, **json.loads(content)}
    indent = re.match(rb"\{\n( +)", content)
    return (json.dumps(value, indent=len(indent[1]) if indent else 2) + "\n").encode()


_MARKS = {
    ".png": rb"tEXtmade_by\0MARK",
    ".mp4": rb".*freeMARK",
    ".json": rb'\{\s*"made_by": "MARK".*',
    ".html": rb"[^>]*><!-- MARK -->.*",
    ".md": rb".*<!-- MARK -->\s*",
}
"""Where the mark stands in the beginning and end of a file; a text that only quotes one is not ours."""

_STAMPS: dict[str, Callable[[bytes, str], bytes]] = {
    ".png": _in_png,
    ".mp4": lambda content, mark: content + struct.pack(">I", 8 + len(mark)) + b"free" + mark.encode(),
    ".json": _in_json,
    ".html": lambda content, mark: content.replace(b">", f"><!-- {mark} -->".encode(), 1),  # behind <!doctype html>
    ".md": lambda content, mark: content.rstrip() + f"\n<!-- {mark} -->\n".encode(),
}
