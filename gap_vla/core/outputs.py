"""What a command may write where: nothing that it did not make is replaced, and nothing is written over its source.

Every output carries a mark (`gap_vla.core.marks`). An existing one is replaced only if it carries that of the same
kind, and, for a folder and an HDF5 file, if nothing else was put into it since.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from gap_vla.core.errors import UserError
from gap_vla.core.hdf5_mark import is_changed
from gap_vla.core.locks import NoLocksError, alone
from gap_vla.core.marks import FOLDER_MARK, HDF5, closed_in, is_unmarked, made_by, stamp, suffix_of, unlike_mark
from gap_vla.core.resources import existing_parent, require_writable
from gap_vla.core.whole import clear_leftovers, put, real_place, replacing, workplace

_SEALED = ("dataset", "labelled_npz", "annotator")
"""Kinds of folders that are written at once, and read only as they were."""


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

    What a killed writer left hidden beside it is removed, and what it had put aside comes back.

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
    real = Path(os.path.realpath(path))
    if max(len(os.fsencode(one.name)) for one in (path, real)) > 229:  # of 255: it is made in a folder of a longer name
        raise OutputError(f"{path.name[:40]}…{path.name[-20:]}: the name has more than 229 bytes; give a shorter one")
    if os.path.islink(real):
        raise OutputError(f"{path} is a link in a circle; name another place, or remove it")
    if path.is_symlink() and not named:
        raise OutputError(f"{path} is a link; what it leads to would be replaced: remove the link, or copy that here")
    require_apart(path, *sources)
    for one in (real, *real.parents):
        if re.fullmatch("[0-9]+", one.name) and (one.parent / "example_batch.msgpack").exists():
            raise OutputError(f"{one} would be a step of the checkpoint {one.parent}; give a name that is no number")
    for folder in real.parents:
        if made_by(folder) in _SEALED:
            raise OutputError(f"{path} lies in {folder}, which would not be as it was made; name another place")
    clear_leftovers(real.parent, real.name)
    if os.path.exists(path):
        _require_own(path, kind, overwrite, folder=not suffixes)
        _require_changeable(path)
    existing_parent(path)
    if real.is_dir() and kind not in _SEALED:  # results are put into it, as into a container's volume
        require_writable(real, "the folder")
        return path
    require_no_volume(path, named)
    if real.is_dir() and os.stat(real).st_uid != os.geteuid():  # to move a folder changes it; one's own, `put` opens
        require_writable(real, "the folder")
    require_writable(real.parent, f"the folder of {path}")
    return path


def require_no_volume(path: Path, named: bool = True) -> None:
    """Raises OutputError if a folder is the root of a mounted file system, as a container's volume is, or holds one, or
    a file that is mounted: that would move away with the folder, and be emptied."""
    if path.is_dir() and os.path.ismount(real := os.path.realpath(path)):
        advice = f"name one in it, {path / 'NAME'}" if named else "unmount it, or name another output"
        raise OutputError(f"{path} is a volume, which no folder can take the place of; {advice}")
    if path.is_dir() and (within := [place for place in _mounts() if place.startswith(f"{real}/")]):
        raise OutputError(f"{path} holds the volume {within[0]}; unmount that, or name another output")


_MOUNTS = Path("/proc/self/mountinfo")


def _mounts() -> list[str]:
    """Where something is mounted, file systems and single files; none where the system does not tell."""
    with contextlib.suppress(OSError):
        lines = [line.split(b" ") for line in _MOUNTS.read_bytes().split(b"\n")]
        places = [line[4] for line in lines if len(line) > 4]
        return [os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda one: bytes([int(one[1], 8)]), one)) for one in places]
    return []


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
        clear_leftovers(path, FOLDER_MARK)
        return path
    claim(path, kind, sources=sources)
    if make:
        path.mkdir(parents=True, exist_ok=True)
        stamp(path, kind)
    return path


@contextlib.contextmanager
def alone_in(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock beside a claimed file or folder: from the look at what is there until the new one is written, so
    that of two commands at once none replaces what it did not see. Where the file system knows no locks, nothing is
    held. Raises InUseError: another process holds it, and not `wait`."""
    real = real_place(path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NoLocksError):
            stack.enter_context(alone(real.with_name(f".{real.name}.lock"), f"{path}", wait, there=real))
        yield


@contextlib.contextmanager
def writing(path: str | Path, kind: str, *, overwrite: bool = True, named: bool = True) -> Iterator[Path]:
    """Yields a temporary path for a file; what was written there is marked, read back, and takes its place.

    An old output stays until then, and for good if anything fails.

    Raises:
        OutputError: see `claim`; or it did not arrive whole.
    """
    claim(path, kind, overwrite=overwrite, suffixes=(suffix_of(path),), named=named)
    with replacing(path, follow=True) as temporary:
        yield temporary
        stamp(temporary, kind)
        _require_whole(temporary, Path(path), kind)
        # what came there meanwhile stays
        claim(path, kind, overwrite=overwrite, suffixes=(suffix_of(path),), named=named)


@contextlib.contextmanager
def writing_all(paths: Sequence[Path], kind: str) -> Iterator[list[Path]]:
    """As `writing`, of files that belong together: if one fails, all are as they were."""
    for path in paths:
        claim(path, kind, suffixes=(suffix_of(path),))
    first, *others = (Path(os.path.realpath(path)) for path in paths)  # the first takes its place last
    with contextlib.ExitStack() as hidden:
        old = {there: hidden.enter_context(workplace(there)).with_suffix(".old") for there in others}
        before = {there: os.stat(there) if there.exists() else None for there in (first, *others)}
        for there in filter(before.get, others):
            shutil.copy2(there, old[there])
        try:
            with contextlib.ExitStack() as stack:
                yield [stack.enter_context(writing(path, kind)) for path in paths]
        except BaseException:
            if _is_as(first, before[first]):  # else all are new, and Ctrl-C came a moment later
                for there in [there for there in others if not _is_as(there, before[there]) and made_by(there) == kind]:
                    os.replace(old[there], there) if before[there] else there.unlink()
            raise


def _is_as(there: Path, before: os.stat_result | None) -> bool:
    """Whether the file that was there, or none, is there still."""
    return os.path.samestat(before, os.stat(there)) if before and there.exists() else bool(before) == there.exists()


def write_output(path: str | Path, kind: str, text: str) -> Path:
    """Writes a text file, see `writing`; returns its path."""
    with writing(path, kind) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # half of a pair, as JSON may hold
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
    """Makes sure that an output is, contains and lies in nothing that is read, or, as `why` says, written too; nor what
    links in a folder that is read lead to.

    Raises:
        OutputError: it does.
    """
    here = Path(os.path.realpath(path))
    for source in sources:
        if source is None:
            continue
        for name, there in _places(Path(source)):
            around, within = (any(map(partial(_same, a), b.parents)) for a, b in ((here, there), (there, here)))
            if (same := _same(here, there)) or around or within:
                how = "is" if same else "contains" if around else "lies in"
                raise OutputError(f"{path} {how} {name}, which is {why}; name another place")


def _places(source: Path) -> Iterator[tuple[Path, Path]]:
    """What is read, by its name and where it lies: a file or folder, and what links in the folder lead to."""
    yield source, Path(os.path.realpath(source))
    for place, folders, files in os.walk(source):
        above = {Path(os.path.realpath(one)) for one in (Path(place), *Path(place).parents)}  # as nobody reads it
        for link in (one for one in (Path(place, name) for name in (*folders, *files)) if one.is_symlink()):
            if (there := Path(os.path.realpath(link))) not in above:
                yield link, there


def _same(one: Path, other: Path) -> bool:
    """Whether they are one file or folder, also by two names or through two mounts; they need not be there."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _require_own(path: Path, kind: str, overwrite: bool | None, folder: bool) -> None:
    if path.is_dir() != folder or not (path.is_file() or path.is_dir()):
        wanted = "folder" if folder else "file"
        raise OutputError(f"{path} exists and is no {wanted}; name another place")
    if folder and is_unmarked(path):
        if kind in _SEALED:  # it is replaced; results are put into it
            _require_open(path)
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
        others = [name for name, how in unlike_mark(path, OutputError).items() if how != "missing"]
        if others:
            raise OutputError(f"{path} also holds {others[0]}, which was not written with it; move that away first")
        _require_open(path)


def _require_open(folder: Path) -> None:
    """Raises OutputError: a command of another user makes something in the folder, or was killed as it did."""
    if theirs := closed_in(folder):
        raise OutputError(f"{theirs[0]} is hidden by another user; wait for that one's command, or have it moved away")


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
