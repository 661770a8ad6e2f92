"""The stages of a long command: which one runs, and how long all that is left will take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        seconds: that it takes on two quiet cores; None if nobody knows.
        counted: whether it reports from its first unit to its last, so that it tells how fast this machine is.
    """

    name: str
    seconds: float | None
    counted: bool = False


class Agenda:
    """Knows the stage that runs; `Progress` asks it for the beginning of its lines and for the time left of the whole.

    What later stages take is their figure times the pace of this machine: how much longer than its own figure the
    last counted stage takes.

    Example:
        >>> with Agenda([Stage("collect", 10, counted=True), Stage("train", 60, counted=True)]) as agenda:
        ...     agenda.begin("collect")
        ...     [agenda.heading, agenda.left(5.0, of=20.0)]
        stage 1 of 2: collect
        ['[1/2] ', 125.0]
    """

    running: Agenda | None = None

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages, self._now, self._pace = list(stages), 0, 1.0

    def __enter__(self) -> Agenda:
        Agenda.running = self
        return self

    def __exit__(self, *_: object) -> None:
        Agenda.running = None

    def begin(self, name: str) -> None:
        """Says which stage begins."""
        self._now = [stage.name for stage in self._stages].index(name)
        print(f"stage {self._now + 1} of {len(self._stages)}: {name}", flush=True)

    @property
    def heading(self) -> str:
        """What a line of progress begins with."""
        return f"[{self._now + 1}/{len(self._stages)}] "

    def left(self, of_stage: float, of: float) -> float | None:
        """Seconds until the whole is done; None where a later stage's duration is not known.

        Args:
            of_stage: seconds left of the running stage.
            of: seconds that all of it takes here.
        """
        now, later = self._stages[self._now], [stage.seconds for stage in self._stages[self._now + 1 :]]
        if now.counted and now.seconds:
            self._pace = of / now.seconds
        known = [seconds for seconds in later if seconds is not None]
        return of_stage + self._pace * sum(known) if len(known) == len(later) else None
