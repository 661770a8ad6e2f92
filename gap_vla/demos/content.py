"""Which files a folder of demonstrations holds, and whether they are what they were: by content, and while read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import MOST_COMPRESSED


def listed(folder: Path) -> Iterator[Path]:
    """Files and folders in a folder, also behind links to folders; nothing hidden. None, where there is no folder.

    Raises EpisodeError: a folder may not be listed.
    """
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True) if folder.is_dir() else ():
        above = {os.path.realpath(one) for one in (Path(place), *Path(place).parents)}  # of links that lead in a circle
        found = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in above]
        folders[:] = [name for name in found if name[0] != "." and name != "lost+found"]  # root's, on whole disks
        yield from (Path(place, name) for name in (*folders, *files) if name[0] != ".")


def _refuse(error: OSError) -> None:
    raise EpisodeError(f"{error.filename} cannot be listed ({error.strerror}); get the right to read it, or a copy")


class Unchanged:
    """Knows files by size, time and place on the disk; called later, it raises EpisodeError if one is another, or has
    come whose name is as `coming` (`*.npz`; "": none).
    """

    def __init__(self, path: Path, coming: str = "") -> None:
        self._path, self._coming = path, coming
        self._seen = {file: stamp(file) for file in self._files()}

    def _files(self) -> list[Path]:
        return [file for file in (self._path, *listed(self._path)) if file.is_file()]

    def __call__(self) -> None:
        if came := {file for file in self._files() if fnmatch(file.name, self._coming)} - self._seen.keys():
            raise EpisodeError(
                f"{min(came)} came while {self._path} was read; give the same command when it stays as it is"
            )
        for file, seen in self._seen.items():
            if stamp(file) != seen:
                raise EpisodeError(f"{file} changed while it was read; give the same command when it stays as it is")


def stamp(file: Path) -> tuple[int, ...]:
    """By which a change of a file shows, also where its time was set back (by `st_ctime`, which nobody sets); of one
    that is not there, any."""
    found = file.stat() if file.exists() else os.stat_result(range(10))
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


@contextlib.contextmanager
def unchanging(path: Path) -> Iterator[None]:
    """What is read inside is one thing: raises as `Unchanged` at the end, also in the place of a UserError inside, of
    which a change is the reason."""
    unchanged = Unchanged(path)
    try:
        yield
    except UserError:
        unchanged()
        raise
    unchanged()


def content_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, or of the files of a folder and their names, but for hidden ones.

    All of it is read (about 1 GB/s), once in a process for as long as sizes, times and places on the disk stay. An edit
    may leave size and time as they were.

    Raises EpisodeError: a file that is mostly a hole, as an interrupted copy leaves it.
    """
    seen = ((file, file.stat()) for file in sorted((path, *listed(path))) if file.is_file())
    return _content_digest(
        path, tuple((f, s.st_size, 512 * s.st_blocks, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for f, s in seen)
    )


@functools.lru_cache(64)
def _content_digest(path: Path, files: tuple[tuple[Any, ...], ...]) -> str:
    total = hashlib.sha256()
    if (whole := sum(size for _, size, *_ in files)) > 2**32:
        print(f"looking whether {path} is what it was, {whole / 1e9:.0f} GB", flush=True)
    for file, size, stored, *_ in files:
        if 0 < MOST_COMPRESSED * stored < size:  # some file systems say that 0 are stored of every file
            raise EpisodeError(f"{file}: has {size:,} bytes and stores {stored:,}, the rest are holes; get it again")
        total.update(str(file.relative_to(path)).encode() + b"\0")
        try:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:  # of reading, as from a bad sector, it names no file
            raise OSError(error.errno, error.strerror, str(file)) from None
    return total.hexdigest()
