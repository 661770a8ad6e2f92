"""The paper's temporally controlled intervention: for some steps of an episode, another policy acts, which has watched
from the start as if it had acted all along.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.report.runs import Run
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import Policy, forget, identity
from gap_vla.rollouts.statistics import paired_difference
from gap_vla.rollouts.task import SimTask, sim_task
from gap_vla.serving.loading import load_checkpoint
from gap_vla.sim import variant_spec

LENGTH = 10
"""Steps that a takeover lasts (the paper's)."""

PHASE_KEY = "phase_index"
"""Observation of a `WatchedTask`: the number of the phase that the episode has reached. No policy is shown it."""


class TakeoverPolicy:
    """`main` acts, except for `LENGTH` steps from the first one on that has reached a phase, or a later one: then
    `other` does. Plays a `WatchedTask`.
    """

    def __init__(self, main: Policy, other: Policy, phase: int) -> None:
        self.name = f"{main.name}, {other.name} from phase {phase}"
        self.identity = {"main": identity(main), "other": identity(other), "phase": phase, "length": LENGTH}
        self._main, self._other, self._phase = main, other, phase
        self._left: dict[int, int | None] = {}  # steps that `other` still acts; None before its window

    def reset(self, episode_ids: Sequence[int]) -> None:
        self._main.reset(episode_ids)
        self._other.reset(episode_ids)
        self._left |= dict.fromkeys(episode_ids)

    def forget(self, episode_ids: Sequence[int]) -> None:
        forget(self._main, episode_ids)
        forget(self._other, episode_ids)

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        shown = {key: value for key, value in observations.items() if key != PHASE_KEY}
        actions, others = np.array(self._main.act(shown, episode_ids)), self._other.act(shown, episode_ids)
        for row, episode in enumerate(episode_ids):
            left = self._left[episode]
            if left is None and observations[PHASE_KEY][row] >= self._phase:
                left = LENGTH
            if left:
                actions[row], left = others[row], left - 1
            self._left[episode] = left
        return actions


@dataclasses.dataclass(frozen=True)
class WatchedTask(SimTask):
    """A task whose observations hold `PHASE_KEY`."""

    def make(self) -> Any:
        return _PhaseShower(super().make(), self)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "shows_phase": True}


class _PhaseShower(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, task: SimTask) -> None:
        super().__init__(env)
        self._task, self._phase = task, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**options)
        self._watcher, self._phase = self._task.make_watcher(self.env), 0
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *others = super().step(action)
        return self._shown(observation), *others

    def _shown(self, observation: Any) -> dict[str, np.ndarray]:
        with contextlib.suppress(Exception):  # an expert that is lost for words must not end the episode
            self._phase = self._task.phases.index(self._watcher.look())
        return {**observation, PHASE_KEY: np.array(self._phase)}


def take_over_runs(
    main: Run, other: Run, *, episodes: int, variant: str = "default", workers: int = 1
) -> list[dict[str, Any]]:
    """Success of `main` alone, with a takeover at the start of each phase, and of `other` alone; resumable. Rollouts
    lie in the main run's `takeover/`.

    Returns:
        For each its name, successes, outcomes on the layouts, and the difference to `main` alone, paired on layouts,
        with its interval and McNemar's probability.
    """
    first, second = load_checkpoint(main.path), load_checkpoint(other.path, task=main.task)
    scene: dict[str, Any] = {"image_size": first.image_size, "cameras": first.cameras, "camera": first.view}
    if (second.image_size, second.view) != (first.image_size, first.view):
        raise UserError(f"{main.path} and {other.path} see other pictures; name runs that see the same ones")
    task = sim_task(main.task, variant=variant, **scene)
    watched = WatchedTask(**vars(task))
    plays: dict[str, tuple[Policy, SimTask]] = {"never": (first.policy, task)}
    for number, phase in enumerate(task.phases):
        plays[f"start of {phase}"] = TakeoverPolicy(first.policy, second.policy, number), watched
    plays["always"] = second.policy, task
    folder = main.path / "takeover" / f"phase-{variant}-{other.path.resolve().name}"
    outcomes: dict[str, np.ndarray] = {}
    found = []
    for number, (name, (policy, played)) in enumerate(plays.items()):
        summary = evaluate(
            policy,
            played,
            episodes=episodes,
            seed=variant_spec(variant).first_seed,
            out_dir=folder / f"{number:02d}-{name.replace(' ', '_')}",
            workers=workers,
            videos=0,
            watch=False,
        )
        outcomes[name] = np.array(summary["outcomes"])
        difference = paired_difference(outcomes[name], outcomes["never"])
        found.append(
            {
                "window": name,
                "successes": summary["successes"],
                "outcomes": "".join(map(str, summary["outcomes"])),
                "difference": difference.difference,
                "difference_interval": list(difference.interval),
                "p_mcnemar": difference.p_mcnemar,
            }
        )
    return found
