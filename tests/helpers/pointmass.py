"""A point that must be carried to a spot: a simulator small enough for tests, with every way to misbehave."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from typing import Any

import gymnasium
import numpy as np

STEP = 0.1


class PointMass(gymnasium.Env):
    """Position in [-1, 1]^3; action entries 0..2 move it, 6 grips. Success: within 0.05 of the target, gripped.

    `image_primary` shows the target (red) and the point (green) from above; the proprioception holds the point alone.
    """

    def __init__(self, size: int, faults: dict[int, str], limit: int | None = None) -> None:
        self._size, self._faults, self._limit = size, faults, limit
        self.moves_target = False
        self.observation_space = gymnasium.spaces.Dict({})
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.seed_value = seed
        self.target = self.np_random.uniform(-0.8, 0.8, 3)
        self.position = np.zeros(3)
        self.steps = 0
        if self._faults.get(seed) == "reset":
            raise RuntimeError("no layout")
        return self._observe(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        fault = self._faults.get(self.seed_value)
        if self.steps == 3 and fault == "raise":
            raise RuntimeError("the simulation became\n unstable" + 3000 * "x")
        if self.steps == 3 and fault == "hang":
            time.sleep(3600)
        if self.steps == 3 and fault and fault.startswith("once "):  # the name of a file that remembers it
            with contextlib.suppress(FileExistsError):
                open(fault.removeprefix("once "), "x").close()
                time.sleep(3600)
        if self.steps == 3 and fault == "die":
            os._exit(7)
        if self.moves_target and self.steps == 2:
            self.target = -self.target
        self.position = np.clip(self.position + STEP * np.asarray(action[:3], float), -1, 1)
        self.steps += 1
        near = float(np.abs(self.position - self.target).max()) < 0.05
        success = near and action[6] > 0
        over = not success and self.steps >= (self._limit or 10**9)
        return self._observe(), 0.0, success, over, {"success": success}

    def _observe(self) -> dict[str, np.ndarray]:
        picture = np.zeros((self._size, self._size, 3), np.uint8)
        for channel, place in ((0, self.target), (1, self.position)):
            row, column = ((place[:2] + 1) / 2 * (self._size - 1)).round().astype(int)
            picture[row, column, channel] = 255
        picture[0, 0, 2] = round((self.target[2] + 1) / 2 * 255)
        proprio = np.zeros(9, np.float32)
        proprio[:3], proprio[3] = self.position, 1
        return {"image_primary": picture, "proprio": proprio}


class PointExpert:
    def __init__(self, env: PointMass) -> None:
        self._env = env
        self.phase = "move"

    def act(self) -> np.ndarray:
        gap = self._env.target - self._env.position
        if np.abs(gap).max() < 0.04:
            self.phase = "grip"
        action = np.zeros(7, np.float32)
        action[:3] = np.clip(gap / STEP, -1, 1)
        action[6] = 1 if self.phase == "grip" else -1
        return action

    def look(self) -> str:
        self.act()
        return self.phase


@dataclasses.dataclass(frozen=True)
class PointTask:
    """`limit`: steps after which the simulator itself truncates an episode.

    `faults`: layout seed to "reset", "raise", "hang", "once FILE" (hangs once) or "die".
    """

    name: str = "pointmass"
    instruction: str = "go to the red spot and grip"
    horizon: int = 30
    action_dim: int = 7
    phases: tuple[str, ...] = ("move", "grip")
    size: int = 16
    faults: dict[int, str] = dataclasses.field(default_factory=dict)
    limit: int | None = None
    disturbance: str | None = None

    def make(self) -> PointMass:
        env = PointMass(self.size, self.faults, self.limit)
        env.moves_target = self.disturbance == "objects_moved"
        return env

    def make_expert(self, env: PointMass, *, seed: int) -> PointExpert:
        return PointExpert(env)

    def make_watcher(self, env: PointMass) -> PointExpert:
        return PointExpert(env)

    def identity(self) -> dict[str, Any]:
        return {"task": self.name, "size": self.size, "disturbance": self.disturbance}


class Told(PointMass):
    """Says what to do in each layout."""

    def _observe(self):
        return {**super()._observe(), "language_instruction": f"go to the spot of layout {self.seed_value}"}


class ToldTask(PointTask):
    def make(self):
        return Told(self.size, self.faults)


def recorded(seed: int, task: PointTask | None = None):
    """The expert's episode on a layout, as policies are asked about it."""
    from gap_vla.rollouts.recordings import RecordedEpisode, near_switches

    env = (task or PointTask(size=64)).make()
    observation, _ = env.reset(seed=seed)
    expert, moments, actions, phases, over = PointExpert(env), [], [], [], False
    while not over:
        moments.append(observation)
        actions.append(expert.act())
        phases.append(expert.phase)
        observation, _, over, _, _ = env.step(actions[-1])
    return RecordedEpisode(
        images={"image_primary": np.stack([moment["image_primary"] for moment in moments])},
        proprio=np.stack([moment["proprio"] for moment in moments]),
        action=np.array(actions),
        transition=near_switches(phases),
        name=f"layout {seed}",
    )


class Seeing:
    """Reads the target off the picture (of 64 pixels), its own place off the proprioception."""

    name = "seeing"

    def reset(self, episode_ids):
        pass

    def act(self, observations, episode_ids):
        actions = np.zeros((len(episode_ids), 7), np.float32)
        for row, picture in enumerate(observations["image_primary"]):
            marked = np.argwhere(picture[..., 0] > 0)
            place = marked[0] / 63 * 2 - 1 if len(marked) else np.zeros(2)
            target = np.array([*place, picture[0, 0, 2] / 255 * 2 - 1])
            gap = target - observations["proprio"][row][:3]
            actions[row, :3] = np.clip(gap / STEP, -1, 1)
            actions[row, 6] = 1 if np.abs(gap).max() < 0.04 else -1
        return actions


class Blind(Seeing):
    """Goes to the middle of all targets, whatever the picture shows."""

    name = "blind"

    def act(self, observations, episode_ids):
        return super().act({**observations, "image_primary": np.zeros_like(observations["image_primary"])}, episode_ids)
