"""One demonstration: the expert acts, the environment answers, everything is written down."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

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
    return Demonstration(
        observations={
            key: np.stack([one[key] for one in seen])
            for key in observation
            if key != "language_instruction"  # the same in every step: an attribute of the collection
        },
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
