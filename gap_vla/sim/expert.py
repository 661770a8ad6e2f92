"""Scripted experts: a list of phases, each a target for the end effectors and a condition under which it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.sim.world import Goal, World

OPEN, CLOSE = -1.0, 1.0

WAITING: dict[str, Any] = dict(tolerance=9.0, turn_tolerance=9.0, once=True)
"""Of a phase in which the hand stays where it is, and time passes (`hold`)."""
ONTO: dict[str, Any] = dict(tolerance=0.006, turn_tolerance=0.06, gain=1.5, precise=True)
"""Of a phase in which an open hand comes down on what it will take."""
LAST: dict[str, Any] = dict(hold=1000, limit=1000)
"""Of the phase in which the episode ends."""
SLACK_POSITION, SLACK_ROTATION = 0.015, 0.15
"""m and rad added to twice the expert's own tolerances: demonstrations differ in heights and way points, and a policy
need not stop where the expert does."""


@dataclasses.dataclass(frozen=True)
class Style:
    """What differs between two demonstrations of the same expert; drawn once per episode.

    Attributes:
        speed: factor on the speed limit of the phases that do not need precision.
        hover: offset (m) added to the heights at which the hand waits above something.
        sideways: horizontal offset (m) of way points in free space.
    """

    speed: float = 1.0
    hover: float = 0.0
    sideways: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Style:
        return cls(
            speed=float(rng.uniform(0.8, 1.0)),
            hover=float(rng.uniform(-0.01, 0.015)),
            sideways=tuple(rng.uniform(-0.01, 0.01, 2)),
        )


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a plan.

    Attributes:
        name: as in the task's specification.
        target: gives one goal per arm for the present state (closed loop).
        tolerance, turn_tolerance: m and rad within which the arms in `arms` have arrived.
        hold: least number of steps; stay: steps in a row inside the tolerances; limit: most steps.
        speed, gain: of the servo. `precise` phases are not slowed down by the style.
        once: evaluate the target only when the phase begins.
        until: a condition that ends the phase instead of arriving (with `hold` and `limit`).
    """

    name: str
    target: Callable[[], Sequence[Goal]]
    tolerance: float = 0.01
    turn_tolerance: float = 0.1
    hold: int = 1
    stay: int = 1
    limit: int = 80
    speed: float = 1.0
    gain: float = 2.5
    precise: bool = False
    once: bool = False
    until: Callable[[], bool] | None = None
    arms: tuple[int, ...] = (0,)


class Follower:
    """Goes through a task's phases.

    Attributes:
        phase: name of the phase to which the last step belongs (before the first one: the first phase).
        switched: whether the last step was the first of its phase.
    """

    def __init__(self, world: World, style: Style) -> None:
        self._world, self._style = world, style
        self._plan = list(world.expert_phases(style))
        self._index = self._steps = self._inside = 0
        self._held: Sequence[Goal] | None = None
        self._episode = world.episodes
        self.phase, self.switched = self._plan[0].name, False

    def step(self) -> tuple[Phase, Sequence[Goal]]:
        """The present phase and its goals, one step further into it."""
        if self._world.episodes != self._episode:
            raise RuntimeError("the episode that this was made for is over; make another after each reset()")
        phase = self._plan[self._index]
        self.phase, self.switched = phase.name, self._steps == 0
        goals = self._held if self._held is not None else phase.target()
        if phase.once:
            self._held = goals
        self._steps += 1
        return phase, goals

    def go_on(self, done: bool) -> None:
        """Begins the next phase, if this one is done and not the last."""
        if done and self._index + 1 < len(self._plan):
            self._index += 1
            self._steps = self._inside = 0
            self._held = None

    def arrived(
        self, phase: Phase, goals: Sequence[Goal], factor: float = 1.0, slack: tuple[float, float] = (0.0, 0.0)
    ) -> bool:
        """Whether the arms are where the phase ends.

        Args:
            factor, slack: the tolerances are so many times the phase's own, and so much (m, rad) wider.
        """
        if phase.until:
            return phase.until()
        near, turned = factor * phase.tolerance + slack[0], factor * phase.turn_tolerance + slack[1]
        for arm in phase.arms:
            goal, (position, rotation) = goals[arm], self._world.hand(arm)
            if np.linalg.norm(goal.position - position) >= near:
                return False
            if goal.rotation is not None:
                cosine = (np.trace(goal.rotation @ rotation.T) - 1) / 2
                if np.arccos(np.clip(cosine, -1.0, 1.0)) >= turned:
                    return False
        return True


class Expert(Follower):
    """Plays a task's phases; `switched` is the ground truth of change points.

    Make a new one after each reset (`make_expert`).
    """

    def act(self) -> Float[np.ndarray, " a"]:
        """float32[7 * arms]: the clean action for the present state, in [-1, 1]; advances the plan."""
        phase, goals = self.step()
        speed = phase.speed * (1.0 if phase.precise else self._style.speed)
        action = np.concatenate([self._world.servo(arm, goal, phase.gain, speed) for arm, goal in enumerate(goals)])
        self._inside = self._inside + 1 if self.arrived(phase, goals) else 0
        self.go_on((self._inside >= phase.stay and self._steps >= phase.hold) or self._steps >= phase.limit)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def make_expert(env: Any, *, seed: int) -> Expert:
    """The task's scripted expert for the episode that `env` is in; call it after every reset.

    Args:
        env: from `gap_vla.sim.make` or `gymnasium.make`, after `reset`.
        seed: of the expert's style (speed, heights), so that demonstrations are not copies of each other.
    """
    return Expert(env.unwrapped.world, Style.draw(np.random.default_rng(seed)))


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
