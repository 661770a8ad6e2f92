"""What a command may write where: nothing that it did not make is replaced, and nothing is written over its source.

Every output carries a mark, the bytes `gap_vla:KIND`: in a chunk of a PNG, a box of an MP4, a comment of a page or a
text, a key of a JSON object, an attribute of an HDF5 file, and in a folder as the file `made_by.json`, which also lists
what was written with it. An existing output is replaced only if it carries the mark of the same kind, and, for a
folder and an HDF5 file, if nothing else was put into it since.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section
from gap_vla.core.hdf5_mark import is_changed, read_mark, write_mark
from gap_vla.core.resources import existing_parent, require_writable
from gap_vla.core.whole import put, replacing

FOLDER_MARK = "made_by.json"
HDF5 = (".hdf5", ".h5")
_END = 2**22
_WHOLE = "CRC-32 of all"
_TEMPORARY = re.compile(r"(^|/)\.([^/]+)\.[a-z0-9_]{8}(\.[^/.]+)$")  # a path in a folder, as `replacing` hides it
_PNG_HEAD = 33  # bytes: the signature and the chunk IHDR, which has to come first


class OutputError(UserError):
    """Something that must not be written there, or that did not arrive whole; says what to do."""


def claim(
    path: str | Path,
    kind: str,
    *,
    overwrite: bool | None = True,
    sources: Sequence[str | Path | None] = (),
    suffixes: Sequence[str] = (),
    named: bool = True,
) -> Path:
    """Makes sure that `path` may be written, before the work for it begins; writes nothing itself.

    Args:
        kind: of what will stand there, lower case and `_`.
        overwrite: whether an older output of the same kind may be replaced; None: this command never replaces any.
        sources: files and folders that are read: the output must not be, contain, or lie in any of them.
        suffixes: how the name may end; none: it is a folder.
        named: whether the user gave this name. What lies beside or in it is not written through a link.

    Returns:
        `path`.

    Raises:
        OutputError: it may not.
        ResourceError: nothing can be written there.
    """
    path = Path(path)
    if suffixes and suffix_of(path) not in suffixes:
        raise OutputError(f"{path}: the name must end in {' or '.join(suffixes)}")
    if len(os.fsencode(path.name)) > 235:  # of 255: it is made under a hidden name that is longer
        raise OutputError(f"{path.name[:40]}…: the name has more than 235 bytes; give a shorter one")
    if os.path.islink(os.path.realpath(path)):
        raise OutputError(f"{path} is a link in a circle; name another place, or remove it")
    if path.is_symlink() and not named:
        raise OutputError(f"{path} is a link; what it leads to would be replaced: remove the link, or copy that here")
    require_apart(path, *sources)
    if os.path.exists(path):
        _require_own(path, kind, overwrite, folder=not suffixes)
        _require_changeable(path)
    existing_parent(path)
    require_writable(Path(os.path.realpath(path)).parent, f"the folder of {path}")
    return path


def _require_changeable(path: str | Path) -> None:
    """Raises OutputError if the file's attributes forbid to replace it, which the system says only when one tries."""
    if os.path.isfile(path):
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError as error:
            if error.errno == errno.EPERM:
                raise OutputError(f"{path} may not be replaced (chattr +i or +a); name another, or allow it") from None


def claim_folder(path: str | Path, kind: str, *, sources: Sequence[str | Path | None] = (), make: bool = True) -> Path:
    """Makes sure that results may be put into a folder, and, if `make`, makes and marks it.

    Unlike that of `deliver`, such a folder grows: it is new, empty, or one that carries the mark of this kind already.

    Raises:
        OutputError: it is something else.
    """
    path = Path(path)
    if made_by(path) == kind and path.is_dir():
        require_apart(path, *sources)
        return path
    claim(path, kind, sources=sources)
    if make:
        path.mkdir(parents=True, exist_ok=True)
        stamp(path, kind)
    return path


def suffix_of(path: str | Path) -> str:
    """How a name ends, in small letters: `E.HTML` is a page."""
    return Path(path).suffix.lower()


@contextlib.contextmanager
def writing(path: str | Path, kind: str, *, overwrite: bool = True) -> Iterator[Path]:
    """Yields a temporary path for a file; what was written there is marked, read back, and takes its place.

    An old output stays until then, and for good if anything fails.

    Raises:
        OutputError: see `claim`; or it did not arrive whole.
    """
    claim(path, kind, overwrite=overwrite, suffixes=(suffix_of(path),))
    with replacing(path, follow=True) as temporary:
        yield temporary
        stamp(temporary, kind)
        _require_whole(temporary, Path(path), kind)


def write_output(path: str | Path, kind: str, text: str) -> Path:
    """Writes a text file, see `writing`; returns its path."""
    with writing(path, kind) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def deliver(new: Path, path: Path, kind: str, *, overwrite: bool = True, suffixes: Sequence[str] = ()) -> None:
    """Marks a finished file or folder in a `workplace` and moves it to `path`, if that is still allowed.

    Raises:
        OutputError: see `claim`.
    """
    stamp(new, kind)
    claim(path, kind, overwrite=overwrite, suffixes=suffixes)
    put(new, path)


def require_apart(path: Path, *sources: str | Path | None, why: str = "read") -> None:
    """Makes sure that an output is, contains and lies in nothing that is read, or, as `why` says, written too.

    Raises:
        OutputError: it does.
    """
    here = Path(os.path.realpath(path))
    for source in sources:
        if source is None:
            continue
        there = Path(os.path.realpath(source))
        around, within = (any(map(partial(_same, a), b.parents)) for a, b in ((here, there), (there, here)))
        if (same := _same(here, there)) or around or within:
            how = "is" if same else "contains" if around else "lies in"
            raise OutputError(f"{path} {how} {source}, which is {why}; name another place")


def _same(one: Path, other: Path) -> bool:
    """Whether they are one file or folder, also by two names or through two mounts; they need not be there."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def stamp(path: Path, kind: str) -> None:
    """Puts the mark into a file by its suffix, or into a folder with a list of its files."""
    mark = f"gap_vla:{kind}"
    if path.is_dir():
        while empty := list(_empty(path)):  # left where something of others lay in an unfinished one
            for folder in empty:
                folder.rmdir()
        files = {str(file.relative_to(path)): file_mark(file) for file in sorted(_files(path))}
        (path / FOLDER_MARK).write_text(json.dumps({"made_by": mark, "files": files}, indent=1) + "\n")
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
        ends = read_mark(path).encode()
    elif suffix == ".png":  # length, chunk, checksum
        ends = ends[_PNG_HEAD + 4 : _PNG_HEAD + 8 + int.from_bytes(ends[_PNG_HEAD : _PNG_HEAD + 4], "big")]
    found = re.fullmatch(_MARKS.get(suffix, b"MARK").replace(b"MARK", rb"gap_vla:([a-z_]+)"), ends, re.DOTALL)
    return found[1].decode() if found else None


def _require_own(path: Path, kind: str, overwrite: bool | None, folder: bool) -> None:
    if path.is_dir() != folder or not (path.is_file() or path.is_dir()):
        wanted = "folder" if folder else "file"
        raise OutputError(f"{path} exists and is no {wanted}; name another place")
    if folder and not any(path.iterdir()):
        return
    if overwrite is None:
        raise OutputError(f"{path} exists; choose another name, or move it away")
    found = made_by(path)
    if found != kind:
        how = f"and is something else of gap_vla ({found})" if found else f"without a mark of gap_vla ({kind})"
        raise OutputError(f"{path} exists {how}; name another place, or move it away")
    if not overwrite:
        raise OutputError(f"{path} exists; name another place, or allow overwriting")
    if suffix_of(path) in HDF5 and not folder and is_changed(path):
        raise OutputError(f"{path} was changed since it was written; name another place, or move it away")
    if folder:
        if others := [name for name, how in unlike_mark(path, OutputError).items() if how != "missing"]:
            raise OutputError(f"{path} also holds {others[0]}, which was not written with it; move that away first")


def unlike_mark(folder: Path, error: type[UserError]) -> dict[str, str]:
    """Paths in a marked folder that are not as they were written with it: "missing", "changed" or "added".

    Sizes and checksums are compared as far as the version that wrote the mark noted them: none, those of the first and
    last 4 MiB, or of all. Raises `error` for a mark that is none.
    """
    mark = Section.read(folder / FOLDER_MARK, error)
    listed = isinstance(mark.values.get("files"), list)
    known = dict.fromkeys(mark.list("files", Section.text)) if listed else mark.section("files", {}).values
    files = {str(file.relative_to(folder)): file for file in [*_files(folder), *_empty(folder)]}
    seen = {name: file_mark(file, _WHOLE in str(known.get(name))) for name, file in files.items()}
    return {
        name: "missing" if name not in seen else "changed" if name in known else "added"
        for name in sorted({*known, *seen})
        if name not in seen or known.get(name, "") not in (None, seen[name])
    }


def others_in(folder: Path, own: str) -> list[Path]:
    """What an unfinished folder holds that its writer did not make: files of other names than `own`, a regular
    expression of paths in it, allows; the folder itself if it is a file or a link."""
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        return [folder]
    names = {file: _TEMPORARY.sub(r"\1\2\3", str(file.relative_to(folder))) for file in _files(folder)}
    return sorted(file for file, name in names.items() if file.is_symlink() or not re.fullmatch(own, name))


def file_mark(file: Path, whole: bool = True) -> str:
    """What tells a file from others at its place: its size and a checksum, if not `whole` of its two ends."""
    if file.is_symlink() or not file.is_file():
        return "an empty folder" if file.is_dir() and not file.is_symlink() else "a link, a pipe or a device"
    with file.open("rb") as stream:
        found = zlib.crc32(stream.read(_END))
        size = os.fstat(stream.fileno()).st_size
        if not whole:
            stream.seek(max(size - _END, stream.tell()))
        while part := stream.read(_END):
            found = zlib.crc32(part, found)
    return f"{size} bytes, {_WHOLE if whole else 'CRC-32'} {found:08x}"


def _require_whole(temporary: Path, path: Path, kind: str) -> None:
    try:
        if suffix_of(path) == ".png":
            from PIL import Image

            with Image.open(temporary) as picture:
                picture.load()
        if suffix_of(path) == ".json":
            json.loads(temporary.read_bytes())
        whole = made_by(temporary) == kind
    except (OSError, SyntaxError, ValueError):
        whole = False
    if not whole:
        raise OutputError(f"{path} was not written whole; is the disk full?")


def _files(folder: Path) -> Iterator[Path]:
    """All but its mark."""
    files = (file for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())
    return (file for file in files if file != folder / FOLDER_MARK)


def _empty(folder: Path) -> Iterator[Path]:
    """Folders without anything in them, such as the mark of another program."""
    return (part for part in folder.rglob("*") if part.is_dir() and not part.is_symlink() and not any(part.iterdir()))


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
