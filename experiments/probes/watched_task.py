"""A task that shows which phase an episode has reached, for takeovers that begin with a phase."""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium
import numpy as np

from experiments.probes.takeover import PHASE_KEY
from gap_vla.rollouts.task import ActingExpert, Task, Watcher


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
