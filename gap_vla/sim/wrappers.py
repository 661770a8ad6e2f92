"""What rollouts add to an environment: objects that are shifted under the robot."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Float

MOVE_AT_STEP, MOVE_BY = 10, 0.04
"""When the objects are moved (control steps: early, while the hand is on its way), and how far (m)."""


class ObjectMover(gymnasium.Wrapper):
    """Shifts every loose object once, early in the episode, in a direction that depends on the layout alone."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._step, self._offset = 0, np.zeros(2)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self._step = 0
        observation, info = super().reset(**options)
        self._offset = offset_of(info["episode_seed"])
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._step == MOVE_AT_STEP:
            shift_objects(self.env.unwrapped.world, self._offset)  # type: ignore[attr-defined]
        self._step += 1
        return super().step(action)


def offset_of(seed: int) -> Float[np.ndarray, " 2"]:
    """By how much objects are moved in the layout of that seed (m, world x and y)."""
    direction = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return MOVE_BY * np.array([np.cos(direction), np.sin(direction)])


def pictures_with_objects_moved(env: Any, offset: Float[np.ndarray, " 2"]) -> dict[str, np.ndarray]:
    """What the cameras would show with every loose object shifted by `offset` (m, world x, y); nothing is changed."""
    inner = env.unwrapped
    model, data = inner.world.model, inner.world.data
    everything = mujoco.mjtState.mjSTATE_INTEGRATION  # with where the solver starts from, which mj_forward moves
    kept = np.empty(mujoco.mj_stateSize(model, everything))
    mujoco.mj_getState(model, data, kept, everything)
    try:
        shift_objects(inner.world, offset)
        return {f"image_{camera}": inner.picture(camera) for camera in inner.cameras}
    finally:
        mujoco.mj_setState(model, data, kept, everything)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, kept, everything)


def shift_objects(world: Any, offset: Float[np.ndarray, " 2"]) -> None:
    """Moves every body that hangs on nothing (a free joint) by `offset` (m, world x and y)."""
    model, data = world.model, world.data
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    for address in model.jnt_qposadr[free]:
        data.qpos[address : address + 2] += offset
    mujoco.mj_forward(model, data)
