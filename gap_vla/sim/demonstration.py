"""One demonstration: the expert acts, the environment answers, and robomimic's HDF5 layout keeps it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.columns import POSE
from gap_vla.core.files import replacing
from gap_vla.sim.environment import SimEnv
from gap_vla.sim.expert import make_expert


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """What happened in one episode of `T` steps.

    Attributes:
        observations: pictures and proprio by name, [T, ...]: what was seen *before* each action.
        actions: float32[T, 7 * arms]: the expert's clean actions, the labels to imitate.
        executed_actions: float32[T, 7 * arms]: what was done: the label plus the disturbance.
        rewards: float32[T].
        states: float64[T, 1 + nq + nv]: time, qpos, qvel before each action.
        objects: by name, float32[T, 3]: positions (m, world) of the task's objects and goals before each action; for
            probes and analyses, never an observation of a policy.
        phases: the expert's phase name per step; switches: bool[T], True at the first step of a phase.
        success: whether the episode ended well.
        seed: of the episode, as given to `reset`.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    executed_actions: np.ndarray
    rewards: np.ndarray
    states: np.ndarray
    objects: dict[str, np.ndarray]
    phases: list[str]
    switches: np.ndarray
    success: bool
    seed: int

    def __len__(self) -> int:
        return len(self.actions)


def demonstrate(env: SimEnv, seed: int, action_noise: float = 0.0) -> Demonstration:
    """Lets the expert play the episode `seed`.

    Args:
        action_noise: standard deviation of the disturbance (in action units) that is added to each commanded
            translation and rotation, independently per step, before the action is executed; the gripper is not
            disturbed. The disturbance belongs to the episode: the same seed gives the same one.
    """
    observation, info = env.reset(seed=seed)
    expert = make_expert(env, seed=seed)
    rng = np.random.default_rng((seed, 1))
    disturbed = np.tile([1, 1, 1, *[env.task.rotation_scale > 0] * 3, 0], env.task.n_arms)
    log: list[tuple[Any, ...]] = []
    over = False
    while not over:
        label = expert.act()
        executed = np.clip(label + action_noise * disturbed * rng.standard_normal(len(label)), -1, 1).astype(np.float32)
        data = env.world.data
        state = np.concatenate([[data.time], data.qpos, data.qvel])
        before = observation, state, env.world.objects(), label, executed, expert.phase, expert.switched
        observation, reward, terminated, truncated, info = env.step(executed)
        log.append((*before, reward))
        over = terminated or truncated
    seen, states, objects, labels, done, phases, switches, rewards = zip(*log)
    del observation["language_instruction"]  # the same in every step: an attribute of the collection
    return Demonstration(
        observations={key: np.stack([one[key] for one in seen]) for key in observation},
        actions=np.stack(labels),
        executed_actions=np.stack(done),
        rewards=np.array(rewards, np.float32),
        states=np.stack(states),
        objects={key: np.stack([one[key] for one in objects]).astype(np.float32) for key in objects[0]},
        phases=list(phases),
        switches=np.array(switches),
        success=bool(info["success"]),
        seed=seed,
    )


def write_demonstration(path: Path, demo: Demonstration) -> None:
    """Writes one demonstration as the group `demo` of its own file.

    `obs/object` is float32[T, 3 * objects]: xyz (m, world) of each object and goal, in the order of its attribute
    `names`.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group("demo")
        group.attrs["num_samples"] = len(demo)
        group.attrs["seed"] = demo.seed
        group.attrs["success"] = demo.success
        group["actions"] = demo.actions
        group["executed_actions"] = demo.executed_actions
        group["states"] = demo.states
        group["rewards"] = demo.rewards
        dones = np.zeros(len(demo), np.int64)
        dones[-1] = 1
        group["dones"] = dones
        group.create_dataset("phase", data=demo.phases, dtype=h5py.string_dtype())
        group["phase_switch"] = demo.switches
        for key, value in demo.observations.items():
            if key.startswith("image_"):
                chunk = (min(16, len(value)), *value.shape[1:])
                group.create_dataset(f"obs/{key}", data=value, chunks=chunk, compression="gzip", compression_opts=1)
        states = demo.observations["proprio"]
        for arm, block in enumerate(np.split(states, states.shape[1] // POSE.width, axis=1)):
            group[f"obs/robot{arm}_eef_pos"] = block[:, :3]
            group[f"obs/robot{arm}_eef_quat"] = block[:, [4, 5, 6, 3]]  # robomimic's are xyzw
            group[f"obs/robot{arm}_gripper_qpos"] = block[:, 7:]
        group["obs/object"] = np.concatenate(list(demo.objects.values()), axis=1)
        group["obs/object"].attrs["names"] = list(demo.objects)
