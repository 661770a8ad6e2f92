"""One line that says what runs, how far it is, how fast, and how long it will take."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from gap_vla.core.agenda import Agenda

PATIENCE = 5.0
"""Seconds of work that need no line; for `after`."""


def duration(seconds: float) -> str:
    """Human-readable time: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def heading() -> str:
    """`[3/6] ` in the third of six stages, otherwise nothing."""
    return Agenda.running.heading if Agenda.running else ""


def whole_left(of_stage: float, of: float) -> str:
    """` (9 min 05 s of everything)` while stages run; the arguments are those of `Agenda.left`."""
    left = Agenda.running.left(of_stage, of) if Agenda.running else None
    return "" if left is None else f" ({duration(left)} of everything)"


class Progress:
    """Prints `what: done/total unit, rate, time left`.

    Args:
        what: name of the stage.
        total: number of units.
        done: units that an earlier, interrupted run did; they do not count into the rate.
        every: least seconds between two lines.
        after: nothing is printed before so many seconds have passed, nor if all is done by the first line, so that
            short work stays quiet.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        done: int = 0,
        every: float = 5.0,
        out: TextIO | None = None,
        after: float = 0.0,
    ):
        self.what, self.total, self.unit, self.every, self.after = what, total, unit, every, after
        self.out = out or sys.stdout
        self._start_units, self._start = done, time.monotonic()
        self._last_line = 0.0

    def rate(self, done: int) -> float:
        """Units per second since the start of this process' share."""
        return (done - self._start_units) / max(time.monotonic() - self._start, 1e-9)

    def update(self, done: int, extra: str = "", force: bool = False) -> None:
        now = time.monotonic()
        if self.after and (now - self._start < self.after or (done >= self.total and not self._last_line)):
            return
        if not force and done < self.total and now - self._last_line < self.every:
            return
        self._last_line = now
        rate = self.rate(done)
        left = duration((self.total - done) / rate) if rate > 0 else "?"
        whole = whole_left((self.total - done) / rate, self.total / rate) if rate > 0 else ""
        tail = f", {extra}" if extra else ""
        counted = f"{done}/{self.total} {self.unit}s, {rate:.2f} {self.unit}s/s"
        line = f"{heading()}{self.what}: {counted}, {left} left{whole}{tail}"
        print(line, file=self.out, flush=True)
