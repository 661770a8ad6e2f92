"""A line that says what is running, how far it is, how fast, and how long it will still take."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from gap_vla.core.progress import heading, whole_left


def duration(seconds: float) -> str:
    """
    >>> duration(75), duration(4000)
    ('1:15', '1:06:40')
    """
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Rewrites one line on a terminal; in a log file, prints a line of its own every `log_every` seconds.

    Args:
        total: of what `advance` counts; None if nobody knows.
    """

    def __init__(
        self, what: str, total: int | None, *, done: int = 0, stream: TextIO | None = None, log_every: float = 15.0
    ) -> None:
        self._what, self._total, self._done, self._first = what, total, done, done
        self._stream = stream or sys.stderr
        self._period = 0.2 if self._stream.isatty() else log_every
        self._started = self._shown = time.monotonic()
        self._note, self._said = "", -1

    def update(self, *, advance: int = 0, note: str = "") -> None:
        self._done += advance
        self._note = note or self._note
        if time.monotonic() - self._shown >= self._period:
            self._show()

    def close(self) -> None:
        if self._stream.isatty() or self._done != self._said:
            self._show()
        if self._stream.isatty():
            self._stream.write("\n")
        self._stream.flush()

    def _show(self) -> None:
        now = time.monotonic()
        self._shown, self._said = now, self._done
        elapsed, new = now - self._started, self._done - self._first
        parts = [f"{heading()}{self._what}: {self._done}" + (f"/{self._total}" if self._total is not None else "")]
        if self._note:
            parts.append(self._note)
        if new:
            parts.append(f"{new / elapsed * 60:.1f} a minute")
            if self._total is not None:
                left = (self._total - self._done) * elapsed / new
                parts.append(f"{duration(left)} left{whole_left(left, self._total * elapsed / new)}")
        else:
            parts.append(f"{duration(elapsed)} so far")
        line = ", ".join(parts)
        self._stream.write(f"\r\x1b[K{line}" if self._stream.isatty() else f"{line}\n")
        self._stream.flush()
