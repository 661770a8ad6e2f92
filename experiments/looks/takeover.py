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

from gap_vla.cli.arguments import MANY
from gap_vla.core.foreign import Section
from gap_vla.core.whole import write_json
from gap_vla.report.runs import Run
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import Policy, PolicyError, forget, identity
from gap_vla.rollouts.statistics import paired_difference, wilson
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


def window_folder(number: int, name: str) -> str:
    """Of a window's rollouts: `02-start_of_grasp`."""
    return f"{number:02d}-{name.replace(' ', '_')}"


class TakeoverPolicy:
    """`main` acts, except in the window, where `other` does. Acting raises PolicyError for a window that starts with a
    phase, in a task that does not show its phases.
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

    def __init__(self, task: Task) -> None:
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
    def __init__(self, env: gymnasium.Env, task: Task) -> None:
        super().__init__(env)
        self._task = task
        self._number = {name: number for number, name in enumerate(task.phases)}
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
                self._phase = self._number[self._watcher.look()]
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
) -> dict[str, Any]:
    """Success with no takeover, with one in each window, and with one from beginning to end.

    Resumable, as every evaluation is. Each window's success is compared with that of no takeover, paired on layouts.

    Returns:
        JSON-able, and written to `out_dir/takeover.json`: `main`, `other`, `windows` (name, first step or phase,
        successes, how many failures are the simulator's, interval, difference with its interval and McNemar's
        probability, outcomes), `episodes`, `seed`.

    Raises:
        PolicyError: more episodes are there already.
    """
    if (file := out_dir / "takeover.json").exists():
        if (held := Section.read(file, PolicyError).whole("episodes", 1, MANY)) > episodes:
            raise PolicyError(f"{file} holds {held} episodes, not {episodes}; give --episodes {held}, or move it away")
    found: list[dict[str, Any]] = []
    baseline = np.empty(0)
    shown = Watched(task)
    for number, window in enumerate([NEVER, *windows, ALWAYS]):
        summary = evaluate(
            TakeoverPolicy(main, other, window),
            shown,
            episodes=episodes,
            seed=seed,
            out_dir=out_dir / window_folder(number, window.name),
            workers=workers,
            videos=0,
            watch=False,
            progress=progress,
        )
        outcomes = np.array(summary["outcomes"])
        if window is NEVER:
            baseline = outcomes
        difference = paired_difference(outcomes, baseline)
        found.append(
            {
                "window": window.name,
                "first": window.first,
                "phase": None if window.phase is None else task.phases[window.phase],
                "successes": summary["successes"],
                "simulator_errors": summary["simulator_errors"],
                "interval": list(wilson(summary["successes"], episodes)),
                "difference": difference.difference,
                "difference_interval": list(difference.interval),
                "p_mcnemar": difference.p_mcnemar,
                "outcomes": "".join(map(str, summary["outcomes"])),
            }
        )
    result = {"main": main.name, "other": other.name, "task": task.name, "episodes": episodes, "seed": seed}
    result["windows"] = found
    write_json(out_dir / "takeover.json", result)
    return result


def take_over_runs(
    main: Path,
    other: Path,
    *,
    episodes: int,
    variant: str = "default",
    workers: int = 1,
    command: str = "",
) -> dict[str, Any]:
    """The same for two run directories, with a window at the beginning of each phase; the result also lies in
    `main/takeover/phase-<variant>-<other's name>/`.

    Args:
        command: that asks for this, for whoever reads the result.

    Raises:
        PolicyError: the runs are of different tasks, views or sizes of pictures, or have no checkpoint.
    """
    run, taking = Run.read(main), Run.read(other)
    if run.task != taking.task:
        raise PolicyError(f"{main} is of {run.task}, {other} of {taking.task}; name a run of the same task")
    first = load_checkpoint(main)
    second = load_checkpoint(other, task=first.task)
    if first.view() != second.view() or not {*second.cameras} <= {*first.cameras}:
        seen = [
            f"{one} looks through {', '.join(p.cameras)} ({p.view()})" for one, p in ((main, first), (other, second))
        ]
        raise PolicyError(f"{'; '.join(seen)}: name a run that looks through the same cameras")
    if first.image_size != second.image_size:
        sizes = f"{first.image_size} and {second.image_size} pixels"
        raise PolicyError(f"{main} and {other} see pictures of {sizes}; name a run that sees those of the same size")
    first.policy.name, second.policy.name = run.label, taking.label
    task = sim_task(
        run.task,
        image_size=first.image_size or 64,
        cameras=first.cameras or ("primary",),
        variant=variant,
        camera=first.view(),
    )
    folder = main / "takeover" / f"phase-{variant}-{other.resolve().name}"
    found = take_over(
        first.policy,
        second.policy,
        task,
        phase_windows(task.phases),
        episodes=episodes,
        seed=variant_spec(variant).first_seed,
        out_dir=folder,
        workers=workers,
    )
    settings = {"variant": variant, "other_run": str(other)}
    write_json(folder / "settings.json", settings | ({"command": command} if command else {}))
    return found
