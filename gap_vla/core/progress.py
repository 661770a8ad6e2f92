"""The stages of a long command, and the line that says what runs, how far it is, how fast, and how long it takes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO, TypeVar

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds of work that need no line; for `after`."""


def duration(seconds: float) -> str:
    """
    >>> duration(42), duration(185), duration(7800)
    ('42 s', '3 min 05 s', '2 h 10 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Agenda:
    """Knows the stage that runs; `Progress` asks it for the beginning of its lines."""

    running: Agenda | None = None

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages, self._now = list(stages), 0

    def __enter__(self) -> Agenda:
        Agenda.running = self
        return self

    def __exit__(self, *_: object) -> None:
        Agenda.running = None

    @classmethod
    def begin(cls, name: str) -> None:
        """Says which stage begins, in a command that has several."""
        if running := cls.running:
            running._now = running._stages.index(name)
            print(f"stage {running._now + 1} of {len(running._stages)}: {name}", flush=True)

    @property
    def heading(self) -> str:
        """What a line of progress begins with."""
        return f"[{self._now + 1}/{len(self._stages)}] "


class Progress:
    """Prints `what: done/total unit, rate, time left`.

    Args:
        what: name of the stage.
        total: number of units; None if nobody knows.
        done: units that an earlier, interrupted run did; they do not count into the rate.
        after: nothing is printed before so many seconds have passed, nor if all is done by the first line, so that
            short work stays quiet.
        alone: it is the only output meanwhile, and goes to stderr: on a terminal one line that is written over until
            `close`, in a log one every 15 s.
        quiet: nothing is printed.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        done: int = 0,
        out: TextIO | None = None,
        after: float = 0.0,
        alone: bool = False,
        quiet: bool = False,
    ):
        self._out = out or (sys.stderr if alone else sys.stdout)
        self._rewrites = alone and getattr(self._out, "isatty", lambda: False)()  # a program's own log has none
        self._what, self._total, self._unit, self._after, self._quiet = what, total, unit, after, quiet
        self._every = 0.2 if self._rewrites else 15.0 if alone else 5.0
        self._start_units, self._start = done, time.monotonic()
        self._done, self._said, self._extra = done, -1, ""
        self._last_line = 0.0

    def rate(self, done: int) -> float:
        """Units per second since the start of this process' share."""
        return (done - self._start_units) / max(time.monotonic() - self._start, 1e-9)

    def update(self, done: int, extra: str = "", force: bool = False) -> None:
        """So many units are done, those of earlier runs included."""
        now = time.monotonic()
        all_done = self._total is not None and done >= self._total
        self._done, self._extra = done, extra
        if self._after and (now - self._start < self._after or (all_done and not self._last_line)):
            return
        if not force and not all_done and now - self._last_line < self._every:
            return
        self._last_line = now
        self._say()

    def advance(self, units: int, extra: str = "") -> None:
        """So many more are done."""
        self.update(self._done + units, extra)

    def close(self) -> None:
        """The last line, if there is something new to say; a rewritten one ends here."""
        if self._said != self._done:
            self._say()
        if self._rewrites and not self._quiet:
            with contextlib.suppress(ValueError):
                print(file=self._out, flush=True)

    def _say(self) -> None:
        if self._quiet:
            return
        self._said, rate = self._done, self.rate(self._done)
        counted = f"{self._done}/{self._total}" if self._total is not None else f"{self._done}"
        parts = [f"{counted} {self._unit}s"]
        if rate > 0:
            parts.append(f"{rate:.2f} {self._unit}s/s" if rate >= 0.5 else f"{60 * rate:.1f} {self._unit}s a minute")
        if rate > 0 and self._total is not None:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        heading = Agenda.running.heading if Agenda.running else ""
        line = f"{heading}{self._what}: {', '.join([*parts, *([self._extra] if self._extra else [])])}"
        line = f"\r\x1b[K{line}" if self._rewrites else f"{line}\n"
        with contextlib.suppress(ValueError):  # a stream that a program has closed: the work goes on
            print(line, end="", file=self._out, flush=True)


def watched(results: Iterable[T], what: str, total: int, unit: str, after: float = 0.0) -> list[T]:
    """The results as a list, while stderr says how many there are."""
    progress = Progress(what, total, unit, after=after, out=sys.stderr)
    done = []
    for result in results:
        done.append(result)
        progress.update(len(done))
    return done
