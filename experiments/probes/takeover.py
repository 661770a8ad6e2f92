"""The paper's temporally controlled intervention: for some steps of an episode, another policy acts.

Both policies watch the whole episode until then, so that the one that takes over knows what it would know had it been
there from the start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.rollouts.policy import Policy, PolicyError, forget, identity

LENGTH = 10
"""Steps that a takeover lasts (the paper's)."""

PHASE_KEY = "phase_index"
"""Observation that says which phase the episode has reached, for windows that start with a phase; see `Watched`."""


@dataclasses.dataclass(frozen=True)
class Window:
    """When the other policy acts: `length` steps from step `first` on, or from the first step of phase `phase` on.

    Neither is given: never. `length` may be larger than any episode: then to the end.
    """

    name: str
    first: int | None = None
    phase: int | None = None
    length: int = LENGTH

    def __post_init__(self) -> None:
        if self.first is not None and self.phase is not None:
            raise ValueError(f"window {self.name} starts both at step {self.first} and with phase {self.phase}")


NEVER = Window("never")
ALWAYS = Window("always", first=0, length=10**9)


def step_windows(horizon: int, length: int = LENGTH) -> tuple[Window, ...]:
    """Windows that cover an episode one after the other.

    >>> [window.name for window in step_windows(30)]
    ['steps 0 to 9', 'steps 10 to 19', 'steps 20 to 29']
    """
    return tuple(
        Window(f"steps {start} to {start + length - 1}", first=start, length=length)
        for start in range(0, horizon, length)
    )


def phase_windows(phases: Sequence[str], length: int = LENGTH) -> tuple[Window, ...]:
    """One window at the beginning of each phase: the motion transitions of the task."""
    return tuple(Window(f"start of {name}", phase=number, length=length) for number, name in enumerate(phases))


class TakeoverPolicy:
    """`main` acts, except in the window, where `other` does.

    Raises:
        PolicyError: a window that starts with a phase, in a task that does not show its phases.
    """

    def __init__(self, main: Policy, other: Policy, window: Window) -> None:
        self.name = f"{main.name}, {other.name} in {window.name}"
        self.identity = {"main": identity(main), "other": identity(other), "window": dataclasses.asdict(window)}
        self._main, self._other, self._window = main, other, window
        self._step: dict[int, int] = {}
        self._start: dict[int, int | None] = {}

    def reset(self, episode_ids: Sequence[int]) -> None:
        self._main.reset(episode_ids)
        self._other.reset(episode_ids)
        for episode in episode_ids:
            self._step[episode] = 0
            self._start[episode] = self._window.first

    def forget(self, episode_ids: Sequence[int]) -> None:
        forget(self._main, episode_ids)
        forget(self._other, episode_ids)

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        shown = {key: value for key, value in observations.items() if key != PHASE_KEY}
        if self._window.phase is not None:
            if PHASE_KEY not in observations:
                raise PolicyError(f"window {self._window.name} needs {PHASE_KEY}, which this task does not show")
            for row, episode in enumerate(episode_ids):
                if self._start[episode] is None and observations[PHASE_KEY][row] == self._window.phase:
                    self._start[episode] = self._step[episode]
        actions = np.array(self._main.act(shown, episode_ids))
        watching = [row for row, episode in enumerate(episode_ids) if not self._over(episode)]
        if watching:
            seen = {key: value[watching] for key, value in shown.items()}
            others = self._other.act(seen, [episode_ids[row] for row in watching])
            for row, action in zip(watching, others):
                if self.acts_now(episode_ids[row]):
                    actions[row] = action
        for episode in episode_ids:
            self._step[episode] += 1
        return actions

    def acts_now(self, episode: int) -> bool:
        """Whether the other policy's action is executed at the episode's present step."""
        start = self._start[episode]
        return start is not None and start <= self._step[episode] < start + self._window.length

    def _over(self, episode: int) -> bool:
        """Whether the other policy need not watch any more (or never had to)."""
        if self._window.first is None and self._window.phase is None:
            return True
        start = self._start[episode]
        return start is not None and self._step[episode] >= start + self._window.length
