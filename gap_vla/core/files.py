"""Files that are whole or absent, and nothing of the user's replaced unasked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError

MARKER = "made_by.json"
"""The file by which a folder is known as ours."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; the file or folder made there takes its place at the end.

    An interrupted writer leaves `path` as it was, and `.NAME.partial`, which the next writer removes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    remove(temporary)
    try:
        yield temporary
        put(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def put(temporary: Path, path: Path) -> None:
    """Gives a finished file or folder the place of another, or of none."""
    if path.is_dir():  # a folder cannot be renamed onto another
        old = path.with_name(f".{path.name}.old")
        remove(old)
        os.rename(path, old)
        os.rename(temporary, path)
        remove(old)
    else:
        os.replace(temporary, path)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder; there may be none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON with an indent, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises UserError: it holds no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error})") from None


def mark(folder: str | Path, kind: str) -> None:
    """Marks a folder as one of ours, so that `claim` may replace it."""
    write_json(Path(folder) / MARKER, {"made_by": f"gap_vla:{kind}"})


def marked(folder: str | Path) -> str | None:
    """The kind with which a folder is marked; None if it is not ours."""
    file = Path(folder) / MARKER
    if not file.is_file():
        return None
    made_by = read_json(file).get("made_by", "")
    return made_by.removeprefix("gap_vla:") if made_by.startswith("gap_vla:") else None


def claim(
    path: str | Path, *, overwrite: bool = False, kind: str | None = None, sources: Sequence[str | Path] = ()
) -> Path:
    """Makes sure, before work begins, that `path` may be written; returns it.

    Args:
        overwrite: whether an existing file, or a folder marked with `kind`, may be replaced.
        kind: of a folder; None: `path` is to become a file.
        sources: what is read; the output must not be, contain, or lie in any of it.

    Raises:
        UserError: the output exists and may not be replaced, or is one of its sources.
    """
    path = Path(path)
    if refused := _refused(path, overwrite, kind, sources):
        raise UserError(f"{path} {refused}")
    return path


def _refused(path: Path, overwrite: bool, kind: str | None, sources: Sequence[str | Path]) -> str:
    """Why a path may not be written; empty if it may."""
    here = path.resolve()
    for source in sources:
        there = Path(source).resolve()
        if here == there or here in there.parents or there in here.parents:
            return f"would be written over {source}, which is read; name another place"
    if not path.exists() or (kind and path.is_dir() and not any(path.iterdir())):
        return ""
    if path.is_dir() != bool(kind) or (kind and marked(path) != kind):
        return f"exists and was not made by this command{f' ({kind})' if kind else ''}; name another place"
    return "" if overwrite else "exists; name another place, or replace it with --overwrite"


@contextlib.contextmanager
def file_lock(path: str | Path, what: str) -> Iterator[None]:
    """Holds the lock file `path` while one process works on `what`. Raises UserError: another one does."""
    import filelock

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path, timeout=0):
            yield
    except filelock.Timeout:
        raise UserError(f"another process works on {what}; wait for it, or stop it") from None
