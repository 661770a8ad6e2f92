"""Where foreign files enter: what other libraries raise becomes an error of one line that names the file and the place.

Each reader puts its reading into one `refusing` block; what it checks itself it raises as its own error inside. Values
of JSON files are taken with `gap_vla.core.foreign`. Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from gap_vla.core.errors import UserError, is_full_disk

FOREIGN = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError, ArithmeticError,
    AssertionError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What h5py, numpy, Pillow, zipfile, json and pyarrow are known to raise on damaged files."""

MOST_COMPRESSED = 1100
"""No file holds more than this many times its own size: deflate, the strongest compression in use, reaches 1032."""


@contextlib.contextmanager
def refusing(
    where: object, advice: str, error: type[UserError] = UserError, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Errors of other libraries inside become `error`, on one line; `UserError`s pass.

    Args:
        where: file, and episode or key, that the message begins with.
        advice: what to do, e.g. "copy the file again".
        error: what to raise.
        also: errors of a library that derive from `Exception` alone.

    >>> with refusing("demos.npz", "write it again"):
    ...     {}["action"]
    Traceback (most recent call last):
        ...
    gap_vla.core.errors.UserError: demos.npz: no 'action'; write it again
    """
    problems: tuple[type[Exception], ...] = (*FOREIGN, *also)
    try:
        yield
    except UserError:
        raise
    except problems as problem:
        if is_full_disk(problem):  # the file that is read is not to blame
            raise error(
                f"{where}: no space left on the disk that is written to; free some and run it again"
            ) from problem
        found = f"no {problem.args[0]!r}" if type(problem) is KeyError and problem.args else f"{problem}"
        raise error(f"{where}: {one_line(found) or type(problem).__name__}; {advice}") from problem


def one_line(text: object, most: int = 300) -> str:
    """Foreign text for a message: on one line, without control characters, not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def refuse_too_large(where: object, declared: int, stored: int, error: type[UserError] = UserError) -> None:
    """Raises if data declare more bytes than the file can hold, or than this machine has, before any are asked for."""
    if declared > MOST_COMPRESSED * stored + 4096:
        raise error(f"{where}: declares {declared:,} bytes and stores {stored:,}; the file is damaged, get it again")
    if declared > (free := _free_memory()):
        raise error(f"{where}: needs {declared:,} bytes of memory, {free:,} are free; use a machine with more")


def _free_memory() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 2**62  # not Linux: the system itself says no
