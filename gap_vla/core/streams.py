"""The three streams of a command: closed ones, pipes that nobody reads, terminals that were closed.

Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any


class _Pipe(io.TextIOWrapper):
    """A stream that somebody reads, or has stopped to read: then it leads nowhere, and work goes on."""

    def write(self, text: str) -> int:
        with self._read_or_not():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._read_or_not():
            super().flush()

    @contextlib.contextmanager
    def _read_or_not(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that was closed
                raise
            lead_nowhere(self)


def lead_nowhere(stream: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def prepare_streams() -> None:
    """A closed stdin, stdout or stderr is nowhere, instead of the next file that is opened, and so is a pipe that
    nobody reads any more or a terminal that was closed; what the encoding of stdout cannot say is written as on stderr,
    as `\\u03c1`."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the first number that is free
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, "w" if number else "r"))
        stream = getattr(sys, name)
        if number and stream is getattr(sys, f"__{name}__") and (_is_pipe(number) or os.isatty(number)):
            if _is_pipe(number):
                os.set_blocking(number, True)  # one that is full is waited for; Python would lose what does not fit
            how = {"encoding": stream.encoding, "errors": stream.errors, "write_through": stream.write_through}
            setattr(sys, name, _Pipe(stream.buffer, line_buffering=stream.line_buffering, **how))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_pipe(number: int) -> bool:
    mode = os.fstat(number).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
