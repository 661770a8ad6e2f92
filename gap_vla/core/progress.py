"""The stages of a long command, and its progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds of work that need no bar."""


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
    """Knows the stage that runs; `Progress` puts its number before each bar."""

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
        return f"[{self._now + 1}/{len(self._stages)}] "


class Progress:
    """A progress bar on stderr: `what: done/total, time left, rate`.

    Args:
        what: name of the stage.
        total: number of units; None if nobody knows.
        done: units that an earlier, interrupted run did; they do not count into the rate.
        after: seconds before which nothing is shown.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        done: int = 0,
        after: float = 0.0,
        quiet: bool = False,
    ) -> None:
        heading = Agenda.running.heading if Agenda.running else ""
        every = 0.2 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(
            desc=f"{heading}{what}", total=total, unit=f" {unit}s", initial=done, delay=after, disable=quiet,
            mininterval=every, maxinterval=every, dynamic_ncols=True, file=sys.stderr,
        )  # fmt: skip

    def update(self, done: int, extra: str = "") -> None:
        """So many units are done, those of earlier runs included."""
        if extra:
            self._bar.set_postfix_str(extra, refresh=False)
        self._bar.update(done - self._bar.n)

    def advance(self, units: int, extra: str = "") -> None:
        """So many more are done."""
        self.update(self._bar.n + units, extra)

    def rate(self, done: int) -> float:
        """Units per second since the start of this process' share."""
        return (done - self._bar.initial) / max(self._bar.format_dict["elapsed"], 1e-9)

    def close(self) -> None:
        self._bar.close()


def watched(results: Iterable[T], what: str, total: int, unit: str, after: float = 0.0) -> Iterator[T]:
    """The results one by one, while stderr says how many there are."""
    progress = Progress(what, total, unit, after=after)
    for result in results:
        yield result
        progress.advance(1)
    progress.close()
