"""How much of a simulated step is drawing."""

from __future__ import annotations

import time
from typing import Any

import gymnasium


class RenderTimer(gymnasium.Wrapper):
    """Reports the seconds that drawing took as `info["render_seconds"]`, for environments of `gap_vla.sim`."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._seconds = 0.0
        if env.unwrapped.cameras:  # type: ignore[attr-defined]
            renderer = env.unwrapped.renderer  # type: ignore[attr-defined]
            self._draw, renderer.draw = renderer.draw, self._timed

    def _timed(self, *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        picture = self._draw(*arguments, **options)
        self._seconds += time.perf_counter() - started
        return picture

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self._seconds = 0.0
        observation, info = super().reset(**options)
        return observation, {**info, "render_seconds": self._seconds}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._seconds = 0.0
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "render_seconds": self._seconds}
