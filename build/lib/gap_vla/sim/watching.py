"""Looking at an episode from outside: which phase it has reached, whoever acts, and how long drawing takes."""

from __future__ import annotations

import time
from typing import Any

import gymnasium

from gap_vla.sim.expert import Follower, Style
from gap_vla.sim.world import World

SLACK_POSITION, SLACK_ROTATION = 0.015, 0.15
"""m and rad added to twice the expert's own tolerances: demonstrations differ in heights and way points, and a policy
need not stop where the expert does."""


class PhaseWatcher(Follower):
    """Moves through the plan as the hands arrive where each phase ends, with wider tolerances and without time limits.

    It looks at where the hands are, and, through the expert's targets, where the objects are; a phase in which the
    expert only waits (closing the gripper) passes with its time. A policy may do things in another way than the
    expert, and is then seen in an earlier phase than it deserves.

    Args:
        world: `env.unwrapped.world` of a `gap_vla.sim` environment that has just been reset.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world, Style())

    def look(self) -> str:
        """Call once per step; the name of the phase that the episode is in."""
        phase, goals = self.step()
        self.go_on(self.arrived(phase, goals, 2, (SLACK_POSITION, SLACK_ROTATION)) and self._steps >= phase.hold)
        return phase.name


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
