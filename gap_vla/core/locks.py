"""One process at a time: a lock file that says who holds it. The kernel releases it however that process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from gap_vla.core.errors import UserError
from gap_vla.core.resources import existing_parent


class InUseError(UserError, RuntimeError):
    """Another process is at work there."""


@contextlib.contextmanager
def alone(lock: Path | str, what: str) -> Iterator[None]:
    """Holds the lock file for the duration of the block; afterwards it is removed, and so are the folders that were
    made for it, if they are empty.

    Args:
        lock: the file.
        what: what is held, for the error.

    Raises:
        InUseError: another process holds it; its number and host are named.
        ResourceError: its folder is a link that leads nowhere.
    """
    existing_parent(Path(lock).parent)
    new = [folder for folder in Path(lock).parents if not folder.exists()]
    with _opened(Path(lock), what) as stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}\n")
        stream.flush()
        try:
            yield
        finally:
            Path(lock).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for folder in new:
                    folder.rmdir()


@contextlib.contextmanager
def waiting(lock: Path | str) -> Iterator[None]:
    """The same, but waits until the other process is done; the file stays, and its folder is made."""
    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _opened(lock: Path, what: str) -> TextIO:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = open(lock, "a+", opener=lambda name, how: os.open(name, how | os.O_NOFOLLOW, 0o666))  # it is emptied
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            stream.close()
            raise InUseError(f"{what} is in use by {holder}; wait for it, or stop it") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(lock.stat(), os.fstat(stream.fileno())):
                return stream
        stream.close()  # its last holder removed the file after it was opened here
