"""Files and folders that are whole or absent, whatever moment their writer is killed at.

What is written lies in a hidden folder beside its destination until it is renamed, with a locked file. The kernel drops
the lock of a killed writer, so that the next one knows which hidden folders nobody works in any more, and removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.resources import existing_parent

OURS, SUFFIX = ".gap_vla-", ".partial"
"""What hidden folders of ours, and no others, have in their names."""
HIDDEN = re.compile(rf"\.([^/]+){re.escape(OURS)}[a-z0-9_]{{8}}{re.escape(SUFFIX)}")
"""The whole name of one; the group is the name of what is made in it."""
OLD = "replaced-"
"""What was there before, while it lies in the hidden folder because two places cannot be exchanged in one step. It goes
with that folder, unless the new one lies there still: then it is to be put back."""
LOCK = ".gap_vla.lock"
"""A file, since network file systems lock folders for one machine alone."""
WITHIN = re.compile(rf"{HIDDEN.pattern}/({OLD}\1|\1(\.[^/]+)?|\.tmp\w{{6}}|{re.escape(LOCK)}|\.nfs\w+)")
"""What lies in one. `.tmp` is safetensors', before it renames; `.nfs` what network file systems make of a file that is
removed while it is open."""


@contextlib.contextmanager
def replacing(path: Path | str, *, follow: bool = False) -> Iterator[Path]:
    """Yields a temporary file in a hidden folder beside `path`, which takes its place; on an error it is removed.

    A symbolic link is replaced itself, never the file of somebody else; with `follow`, what it points to is. Raises
    UserError: see `workplace`.
    """
    path = Path(path)
    if path.name == "..":
        real_place(path)
    suffix = path.suffix.lower()  # of the link: writers go by it
    path = Path(real_place(path if follow else path.parent), "" if follow else path.name)
    with _hidden_folder(path) as folder:
        temporary = folder / (path.name if path.name.endswith(suffix) else path.name + suffix)
        try:
            temporary.touch(0o600)
            yield temporary
            _give_usual_mode(temporary, path)
            os.replace(temporary, path)
        except OSError as error:
            if error.filename in (None, str(temporary), temporary):
                error.filename = str(path)  # the name that the user knows
            raise


def real_place(path: Path) -> Path:
    """Where a path leads; ResourceError where the system says nowhere, as at a `..` after a folder that is missing (in
    what a link says, too)."""
    real = Path(os.path.realpath(path))
    if ".." in path.parts or (os.path.exists(real) and not os.path.exists(path)):
        existing_parent(path if path.name == ".." or path.is_symlink() else path.parent)
    return real


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(as_written(value))


def as_written(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2) + "\n").encode()


@contextlib.contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """Yields the place where the file or folder `path` is made, in a hidden folder beside it, which is removed in the
    end; those of killed writers are too.

    What else is made there has that name with a suffix. Raises UserError: a killed writer's folder holds something
    else; see `real_place`.
    """
    path = real_place(path)
    with _hidden_folder(path) as folder:
        try:
            yield folder / path.name
        except OSError as error:
            if isinstance(error.filename, str | Path):  # the name that the user knows
                error.filename = str(error.filename).replace(f"{folder}/", f"{path.parent}/")
            raise


@contextlib.contextmanager
def _hidden_folder(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path.parent, path.name)
    try:
        folder, lock = _locked_folder(path)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        yield folder
    finally:
        if _not_replaced(folder, path.name):  # nor put back: the next writer's `clear_leftovers` tries again
            os.close(lock)
        else:
            _remove(folder, lock)


def _locked_folder(path: Path) -> tuple[Path, int]:
    """A new one, with its lock; another writer may take it for a leftover before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}{OURS}", suffix=SUFFIX, dir=path.parent))
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        except OSError:  # the disk is full
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then leftovers stay
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_lock(lock, folder):
                return folder, lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _is_lock(handle: int, folder: Path) -> bool:
    """Whether an open file is the lock of a hidden folder still, which its holder removes with it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder / LOCK))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):  # the latter where another machine removed it
            raise
        return False


def _remove(folder: Path, lock: int) -> None:
    try:
        make_removable(folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
    with contextlib.suppress(OSError):
        folder.rmdir()  # network file systems keep an open file, and its folder
    if os.path.lexists(folder):
        _tell_left(folder)


@functools.cache
def _tell_left(folder: Path) -> None:
    """Once: who claims a place looks at what is left beside it, and who writes there does again."""
    why = "its folder is read-only, or it holds what is another user's, or in use"
    print(f"note: {folder} cannot be removed ({why}); have it removed", flush=True)


def make_removable(folder: Path) -> None:
    """Lets its owner empty a folder and those in it, which `chmod -R a-w` forbids."""
    inner = [folder]
    while inner:
        with contextlib.suppress(OSError):  # of another user
            if not os.access(place := inner.pop(), os.R_OK | os.W_OK | os.X_OK):
                place.chmod(0o700)
            with os.scandir(place) as entries:
                inner += [Path(one.path) for one in entries if one.is_dir(follow_symlinks=False)]


def put(new: Path, path: Path) -> None:
    """Moves `new`, a file or folder, to `path`; an old or a new one is there at every moment. An old folder then has
    the place of `new`."""
    path = real_place(path)
    _give_usual_mode(new, path)
    if path.is_dir() and not os.access(path, os.W_OK):  # it would not move to another folder
        with contextlib.suppress(OSError):  # of another user
            path.chmod(stat.S_IMODE(os.stat(path).st_mode) | stat.S_IWUSR)
    if not path.is_dir():
        os.replace(new, path)
    elif not _exchange(new, path):
        with _hidden_folder(path) as folder:
            old, coming = folder / (OLD + path.name), folder / path.name
            try:
                os.replace(new, coming)
                os.replace(path, old)
                os.replace(coming, path)
                os.replace(old, new)
            except BaseException:  # as Ctrl-C
                if _not_replaced(folder, path.name):
                    _put_back(old, path)
                for moved in (coming, old):
                    if moved.exists():
                        os.replace(moved, new)
                raise


def _not_replaced(folder: Path, name: str) -> bool:
    return all(os.path.lexists(folder / one) for one in (OLD + name, name))


def _put_back(old: Path, path: Path) -> None:
    try:
        os.replace(old, path)
    except OSError as error:  # somebody put something there meanwhile
        why = f"cannot be put back ({error.strerror})"
        raise UserError(f"{old} was {path}, and {why}; move away what is in its place, and repeat") from error


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two places in one step; False where system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes what killed writers left hidden in a folder, of what was to have this name, or of all. Raises UserError,
    after the others: one holds something of somebody's, or cannot be put back."""
    refused = []
    for leftover in _hidden_in(folder, name):
        try:
            _clear(leftover, folder / HIDDEN.sub(r"\1", leftover.name))
        except UserError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _clear(leftover: Path, made: Path) -> None:
    with contextlib.suppress(OSError):
        leftover.rmdir()  # killed before it had a lock
        return
    if not os.path.exists(leftover / LOCK):
        _require_own(leftover, made)  # before a lock is put into what is somebody's
    if (lock := _lock_of_killed(leftover)) is None:
        return
    try:
        _require_own(leftover, made)
        if _not_replaced(leftover, made.name):
            _put_back(leftover / (OLD + made.name), made)
    except BaseException:
        os.close(lock)
        raise
    _remove(leftover, lock)


def _require_own(leftover: Path, made: Path) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for place in leftover.iterdir():
            if not WITHIN.fullmatch(f"{leftover.name}/{place.name}"):
                what = f"{place} lies where {made} is made and was not written by gap_vla"
                raise UserError(f"{what}; move it away")


def _hidden_in(folder: Path, name: str | None) -> list[Path]:
    beginning = "." if name is None else f".{name}{OURS}"
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        ours = (one for one in entries if one.name.startswith(beginning) and HIDDEN.fullmatch(one.name))
        return [folder / one.name for one in ours if one.is_dir(follow_symlinks=False)]
    return []


def _lock_of_killed(leftover: Path) -> int | None:
    """The lock of a hidden folder, if nobody works there."""
    try:
        lock = os.open(leftover / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # gone, or of another user
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_lock(lock, leftover):  # else who worked there has just ended
            return lock
    os.close(lock)
    return None


def _give_usual_mode(path: Path, old: Path) -> None:
    """That of new files and folders here; what is hidden from others in the `old` one's place stays hidden."""
    hidden, group = 0, 0
    if path.is_dir():
        group = os.stat(path).st_mode & stat.S_ISGID  # as its parent has it, so that what is made in it is the group's
    if old.exists():
        hidden = ~os.stat(old).st_mode & 0o077
        with contextlib.suppress(OSError):  # to a group that is not ours
            os.chown(path, -1, os.stat(old).st_gid)
    try:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask() & ~hidden | group)
    except PermissionError:  # a file system without modes, where all have the same
        if os.stat(path).st_mode & hidden:
            raise


def _umask() -> int:
    """The modes that new files do not get. To ask by `os.umask` is to set it, also for files of other threads."""
    with contextlib.suppress(OSError):
        said = Path("/proc/self/status").read_text(errors="replace")
        if found := re.search(r"^Umask:\s*([0-7]+)$", said, re.MULTILINE):
            return int(found[1], 8)
    umask = os.umask(0)
    os.umask(umask)
    return umask
