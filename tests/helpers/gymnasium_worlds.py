"""A tiny gymnasium environment, as another package registers it: a dot in [0, 10]^2 that must go to a corner."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Dot(gymnasium.Env):
    """Action: the next place. `info["is_success"]`, and a reward of 4, where it is beyond 9 in both directions."""

    def __init__(self, height: int = 12, width: int = 16) -> None:
        self._shape = (height, width, 3)
        self.action_space = gymnasium.spaces.Box(0, 10, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0, 5, 2)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.place = action.astype(float)
        action *= 0  # as some do
        success = bool((self.place > 9).all())
        return self._observe(), 4.0 * success, False, False, {"is_success": success}

    def _observe(self) -> dict:
        picture = np.full(self._shape, round(20 * self.place[0]), np.uint8)
        return {"pixels": {"top": picture}, "x": self.place[0], "y": self.place[1:]}


gymnasium.register("helpers/Dot-v0", Dot, max_episode_steps=2)
