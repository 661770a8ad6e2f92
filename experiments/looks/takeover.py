"""The paper's temporally controlled intervention: for some steps of an episode, another policy acts, which has watched
from the start as if it had acted all along.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.report.runs import Run
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import Policy, forget, identity
from gap_vla.rollouts.statistics import paired_difference
from gap_vla.rollouts.task import ActingExpert, Task, Watcher, sim_task
from gap_vla.serving.loading import load_checkpoint
from gap_vla.sim import variant_spec

LENGTH = 10
"""Steps that a takeover lasts (the paper's)."""

PHASE_KEY = "phase_index"
"""Observation that says which phase the episode has reached, for windows that start with a phase; see `Watched`."""


@dataclasses.dataclass(frozen=True)
class Window:
    """When the other policy acts: `length` steps (to the end, if larger than any episode) from step `first` on, or from
    the first step that has reached phase `phase`, or a later one, on. Neither is given: never.
    """

    name: str
    first: int | None = None
    phase: int | None = None
    length: int = LENGTH


NEVER = Window("never")
ALWAYS = Window("always", first=0, length=10**9)


def phase_windows(phases: Sequence[str]) -> tuple[Window, ...]:
    """One window at the beginning of each phase: the motion transitions of the task."""
    return tuple(Window(f"start of {name}", phase=number) for number, name in enumerate(phases))


class TakeoverPolicy:
    """`main` acts, except in the window, where `other` does. A window that starts with a phase needs `PHASE_KEY`."""

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
            for row, episode in enumerate(episode_ids):
                if self._start[episode] is None and observations[PHASE_KEY][row] >= self._window.phase:
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
        start = self._start[episode]
        never = self._window.first is None and self._window.phase is None
        return never or (start is not None and self._step[episode] >= start + self._window.length)


class Watched:
    """`task`, with the phase's number in every observation. No policy is shown it (see `TakeoverPolicy`)."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.name, self.instruction = task.name, task.instruction
        self.horizon, self.action_dim, self.phases = task.horizon, task.action_dim, task.phases

    def make(self) -> Any:
        return _PhaseShower(self._task.make(), self._task)

    def make_expert(self, env: Any, *, seed: int) -> ActingExpert:
        return self._task.make_expert(env.env, seed=seed)

    def make_watcher(self, env: Any) -> Watcher | None:
        return self._task.make_watcher(env.env)

    def identity(self) -> dict[str, Any]:
        return {**self._task.identity(), "shows_phase": True}


class _PhaseShower(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, task: Any) -> None:
        super().__init__(env)
        self._task = task
        self._watcher: Watcher | None = None
        self._phase = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**options)
        self._watcher, self._phase = self._task.make_watcher(self.env), 0
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return self._shown(observation), reward, terminated, truncated, info

    def _shown(self, observation: Any) -> dict[str, np.ndarray]:
        if self._watcher is not None:
            with contextlib.suppress(Exception):  # an expert that is lost for words must not end the episode
                self._phase = self._task.phases.index(self._watcher.look())
        return {**observation, PHASE_KEY: np.array(self._phase)}


def take_over(
    main: Policy,
    other: Policy,
    task: Task,
    windows: Sequence[Window],
    *,
    episodes: int,
    seed: int,
    out_dir: Path,
    workers: int = 1,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Success with no takeover, with one in each window, and with one from beginning to end; resumable.

    Returns:
        For each window its name, successes, outcomes on the layouts, and the difference to no takeover, paired on
        layouts, with its interval and McNemar's probability.
    """
    found: list[dict[str, Any]] = []
    baseline = np.empty(0)
    for number, window in enumerate([NEVER, *windows, ALWAYS]):
        summary = evaluate(
            TakeoverPolicy(main, other, window),
            Watched(task),
            episodes=episodes,
            seed=seed,
            out_dir=out_dir / f"{number:02d}-{window.name.replace(' ', '_')}",
            workers=workers,
            videos=0,
            watch=False,
            progress=progress,
        )
        outcomes = np.array(summary["outcomes"])
        baseline = outcomes if window is NEVER else baseline
        difference = paired_difference(outcomes, baseline)
        found.append(
            {
                "window": window.name,
                "successes": summary["successes"],
                "outcomes": "".join(map(str, summary["outcomes"])),
                "difference": difference.difference,
                "difference_interval": list(difference.interval),
                "p_mcnemar": difference.p_mcnemar,
            }
        )
    return found


def take_over_runs(
    main: Run, other: Run, *, episodes: int, variant: str = "default", workers: int = 1
) -> list[dict[str, Any]]:
    """The same for two runs, with a window at the beginning of each phase; rollouts lie in the run's `takeover/`."""
    first, second = load_checkpoint(main.path), load_checkpoint(other.path, task=main.task)
    if (first.image_size, first.view()) != (second.image_size, second.view()):
        raise UserError(f"{main.path} and {other.path} see other pictures; name runs that see the same ones")
    task = sim_task(
        main.task,
        image_size=first.image_size or 64,
        cameras=first.cameras or ("primary",),
        variant=variant,
        camera=first.view(),
    )
    return take_over(
        first.policy,
        second.policy,
        task,
        phase_windows(task.phases),
        episodes=episodes,
        seed=variant_spec(variant).first_seed,
        out_dir=main.path / "takeover" / f"phase-{variant}-{other.path.resolve().name}",
        workers=workers,
    )
