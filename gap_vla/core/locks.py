"""One process at a time: a lock file that says who holds it. The kernel releases it however that process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from gap_vla.core.errors import UserError
from gap_vla.core.resources import ResourceError, existing_parent


class InUseError(UserError, RuntimeError):
    """Another process is at work there."""


class NoLocksError(ResourceError):
    """The file system knows no locks."""


@contextlib.contextmanager
def alone(lock: Path | str, what: str, wait: bool = False, there: Path | None = None) -> Iterator[None]:
    """Holds the lock file for the duration of the block; afterwards it is removed, and so are the folders that were
    made for it, if they are empty.

    Args:
        lock: the file.
        what: what is held, for the error.
        wait: until another process that holds it is done; a line says so.
        there: what is made under the lock. Where it is there, and nothing may be written beside it, nothing is held.

    Raises:
        InUseError: another process holds it, and not `wait`; its number and host are named. Or it is somebody's file.
        ResourceError: its folder is a link that leads nowhere. NoLocksError: its file system knows no locks.
    """
    existing_parent(Path(lock).parent)
    if there is not None and there.exists() and not os.access(Path(lock).parent, os.W_OK):
        yield
        return
    new, holder = [folder for folder in Path(lock).parents if not folder.exists()], os.getpid()
    with _opened(Path(lock), what, wait) as stream:
        try:
            stream.truncate(0)
            with contextlib.suppress(OSError):  # a full disk: it is held all the same, and nobody is told by whom
                os.write(stream.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode(errors="replace"))
            yield
        finally:
            if os.getpid() == holder:  # no child that was forked inside, and leaves the block as its parent would
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(stream.fileno()), os.stat(lock)):  # else its folder was renamed
                        Path(lock).unlink()
                    for folder in new:
                        folder.rmdir()
                with contextlib.suppress(OSError):
                    fcntl.flock(stream, fcntl.LOCK_UN)  # a forked child has the file open for as long as it lives


def is_held(lock: Path) -> bool:
    """Whether a process, this one too, is `alone` there; a file that a killed one left is not held."""
    try:
        with open(lock) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def _made(lock: Path, tries: int = 100) -> tuple[int, bool]:
    """The open file, and whether it was not there."""
    how = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            return os.open(lock, how | os.O_EXCL, 0o666), True
        return os.open(lock, how, 0o666), False
    except (FileNotFoundError, FileExistsError):  # who had it has just removed the folders that were made for it
        if tries == 0:
            raise
    return _made(lock, tries - 1)


def _opened(lock: Path, what: str, wait: bool) -> TextIO:
    while True:
        handle, made = _made(lock)
        foreign = InUseError(f"{lock} is in the place of a lock and was not written by gap_vla; move it away")
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise foreign
        stream = open(handle, "a+", errors="replace")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                stream.close()
                if made:
                    lock.unlink(missing_ok=True)
                raise NoLocksError(f"{lock.parent}: its file system knows no locks; choose another place") from None
            stream.seek(0)
            holder = stream.read(1000).strip() or "another process"
            if not wait:
                stream.close()
                raise InUseError(f"{what} is in use by {holder}; wait for it, or stop it") from None
            print(f"{what} is in use by {holder}; waiting for it", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        if not re.fullmatch(r"(process \d+ on .*\n)?", stream.read(1000)):  # it would be emptied
            stream.close()
            raise foreign
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(lock.stat(), os.fstat(stream.fileno())):
                return stream
        stream.close()  # its last holder removed the file after it was opened here
