"""Disturbances of the scene during an episode, for closed-loop diagnosis."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from gap_vla.rollouts.recordings import shift_objects

MOVE_AT_STEP, MOVE_BY = 10, 0.04
"""When the objects are moved (control steps: early, while the hand is on its way), and how far (m)."""


class ObjectMover(gymnasium.Wrapper):
    """Shifts every loose object once, early in the episode, in a direction that depends on the layout alone."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._step, self._direction = 0, 0.0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self._step = 0
        self._direction = np.random.default_rng(options.get("seed")).uniform(0, 2 * np.pi)
        return super().reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._step == MOVE_AT_STEP:
            offset = MOVE_BY * np.array([np.cos(self._direction), np.sin(self._direction)])
            shift_objects(self.env.unwrapped.world, offset)  # type: ignore[attr-defined]
        self._step += 1
        return super().step(action)
