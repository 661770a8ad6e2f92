"""Motions of experts with their true switches: our tasks' experts, others' tasks and experts, and the same disturbed.

Meta-World's tasks are played by the policies that ship with it: chains of conditions, whose phase is which of their
`return`s set the hand's goal, and which the grip. robosuite's `Lift` and `PickPlaceCan` are played by a list of goals.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.phases.motion import Motion, quaternion_product
from gap_vla.phases.targets import label_changes

SHORT_PHASE = 4
"""Steps. A phase shorter than this is passed through, not done: its end is no switch."""


@dataclasses.dataclass(frozen=True)
class ExpertMotion:
    """One demonstration of an expert: its signals, the first steps (int64[L]) of the expert's phases but for the first
    one and short ones, and the sampling rate.
    """

    motion: Motion
    switches: np.ndarray
    hz: float


def load_motions(path: Path, most: int | None = None) -> list[ExpertMotion]:
    """Reads demonstrations that `gap_vla.sim.collect_demos` wrote. Raises UserError: there are fewer than asked for."""
    import h5py

    from gap_vla.demos import open_source
    from gap_vla.phases.motion import motion_of

    source = open_source(path)
    if most and len(source) < most:
        raise UserError(f"{path} holds {len(source)} demonstrations, {most} are asked for; lower --episodes")
    with h5py.File(path) as file:
        hz = float(file["data"].attrs["control_hz"])
    episodes = [source.read(number, images=False) for number in range(most or len(source))]
    return [ExpertMotion(motion_of(one), true_switches(np.asarray(one.phase)), hz) for one in episodes]


def true_switches(phase: np.ndarray) -> np.ndarray:
    """Where the expert's phase changes; one less than `SHORT_PHASE` steps after one that counts does not.

    >>> true_switches(np.array(["a"] * 9 + ["b"] * 2 + ["c"] * 9))
    array([9])
    """
    kept: list[int] = []
    for point in label_changes(phase):
        if 1 < point < len(phase) - 1 and (not kept or point - kept[-1] >= SHORT_PHASE):
            kept.append(int(point))
    return np.array(kept, np.int64)


def with_noise(recording: ExpertMotion, sigma: float, rng: np.random.Generator) -> ExpertMotion:
    """White noise of `sigma` mm on every position coordinate and of `sigma` degrees on every rotation axis."""
    motion = recording.motion
    position = motion.position + rng.normal(0, sigma / 1000, motion.position.shape)
    quaternion = motion.quaternion
    if quaternion is not None:
        half = np.deg2rad(rng.normal(0, sigma, (len(motion), motion.arms, 3))) / 2
        turn = np.concatenate([np.sqrt(np.maximum(1 - (half**2).sum(-1, keepdims=True), 0)), half], axis=-1)
        turned = quaternion_product(turn, quaternion.reshape(len(motion), motion.arms, 4))
        quaternion = turned.reshape(quaternion.shape)
    return dataclasses.replace(recording, motion=Motion.of(position, quaternion, motion.gripper, motion.extra))


def at_rate(recording: ExpertMotion, hz: float) -> ExpertMotion:
    """The recording sampled at another rate, by linear interpolation (rotations: normalised)."""
    motion, ratio = recording.motion, recording.hz / hz
    times = np.arange(0, len(motion) - 1 + 1e-9, ratio)

    def sample(rows: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(times, np.arange(len(rows)), column) for column in rows.T], axis=1)

    quaternion = motion.quaternion
    if quaternion is not None:
        q = quaternion.reshape(len(motion), motion.arms, 4)
        signs = np.where((q[1:] * q[:-1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)  # q and -q are one rotation
        q = sample((q * np.cumprod(np.concatenate([np.ones_like(signs[:1]), signs]), axis=0)).reshape(quaternion.shape))
        q = q.reshape(len(times), motion.arms, 4)
        quaternion = (q / np.linalg.norm(q, axis=-1, keepdims=True)).reshape(len(times), -1)
    others = [None if rows is None else sample(rows) for rows in (motion.gripper, motion.extra)]
    switches = np.unique(np.round(recording.switches / ratio).astype(np.int64))
    moved = Motion.of(sample(motion.position), quaternion, *others, where=motion.where, joints=motion.joints)
    return ExpertMotion(moved, switches[(switches > 0) & (switches < len(times))], hz)


_NAMES = (
    "basketball box-close coffee-pull door-open hammer lever-pull peg-insert-side shelf-place stick-push sweep-into"
)
METAWORLD = tuple(f"{name}-v3" for name in _NAMES.split())
ROBOSUITE = ("Lift", "PickPlaceCan")

AFTER = 10
"""Steps that are still recorded after success."""

Goal = tuple[str, Callable[[dict[str, np.ndarray]], np.ndarray | None], float, int]
"""A phase's name, where the hand goes (m; None: it stays), the grip (-1 opens), how many steps it waits there."""


def metaworld_motions(task: str, episodes: int, seed: int) -> list[ExpertMotion]:
    """Successful episodes of a Meta-World task, played by Meta-World's own policy; tasks that it fails are left out."""
    import metaworld
    from metaworld.policies import ENV_POLICY_MAP

    benchmark = metaworld.MT1(task, seed=seed)
    env = benchmark.train_classes[task]()
    policy: Any = ENV_POLICY_MAP[task]()  # type: ignore[abstract]
    found: list[ExpertMotion] = []
    for variation in benchmark.train_tasks:
        if len(found) == episodes:
            break
        env.set_task(variation)
        observation, _ = env.reset()
        rows: list[np.ndarray] = []
        phases, end = [], None
        while len(rows) < (end or 400):
            action, phase = with_phase(policy, observation)
            rows.append(observation[:4].copy())
            phases.append(phase)
            observation, _, _, _, info = env.step(np.clip(action, -1, 1))
            if end is None and info["success"]:
                end = min(len(rows) + AFTER, 400)
        if end is not None:
            found.append(_expert_motion(np.array(rows), None, phases, 80.0, f"{task} {len(found)}"))
    env.close()
    return found


def robosuite_motions(task: str, episodes: int, seed: int) -> list[ExpertMotion]:
    """Successful episodes of a robosuite task, played by a list of goals, with the Panda arm at 20 Hz."""
    import robosuite

    env = robosuite.make(
        task, robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, control_freq=20,
        horizon=1000, ignore_done=True,
    )  # fmt: skip
    np.random.seed(seed)  # noqa: NPY002  (robosuite 1.5 places objects by it)
    found: list[ExpertMotion] = []
    for _ in range(3 * episodes):
        if len(found) == episodes:
            break
        observation = env.reset()
        rows, turns, phases = [], [], []
        for name, goal, grip, hold in _goals(task, env, observation):
            stay, held = observation["robot0_eef_pos"].copy(), 0
            for _ in range(120):
                target = goal(observation)
                error = (stay if target is None else target) - observation["robot0_eef_pos"]
                action = np.concatenate([np.clip(error / 0.05 * 1.5, -1, 1), np.zeros(3), [grip]])
                rows.append(np.concatenate([observation["robot0_eef_pos"], observation["robot0_gripper_qpos"]]))
                turns.append(np.roll(observation["robot0_eef_quat"], 1))
                phases.append(name)
                observation, *_ = env.step(action)
                held += int(np.abs(error).max() < 0.008)
                if held > hold:
                    break
        if env._check_success():
            found.append(_expert_motion(np.array(rows), np.array(turns), phases, 20.0, f"{task} {len(found)}"))
    env.close()
    return found


def _goals(task: str, env: Any, first: dict[str, np.ndarray]) -> list[Goal]:
    name = "cube" if task == "Lift" else "Can"
    lifted = first[f"{name}_pos"] + np.array([0, 0, 0.2])

    def above(height: float) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        return lambda seen: seen[f"{name}_pos"] + np.array([0, 0, height])

    goals: list[Goal] = [
        ("reach", above(0.1), -1.0, 0),
        ("descend", above(0.0), -1.0, 2),
        ("grasp", lambda seen: None, 1.0, 8),
        ("lift", lambda seen: lifted, 1.0, 0),
    ]
    if task == "PickPlaceCan":
        bin_of_can = np.asarray(env.target_bin_placements[env.object_to_id["can"]])
        goals += [
            ("transport", lambda seen: bin_of_can + np.array([0, 0, 0.25]), 1.0, 0),
            ("lower", lambda seen: bin_of_can + np.array([0, 0, 0.1]), 1.0, 0),
            ("release", lambda seen: None, -1.0, 8),
            ("retreat", lambda seen: bin_of_can + np.array([0, 0, 0.3]), -1.0, 0),
        ]
    return goals


def _expert_motion(
    rows: np.ndarray, quaternion: np.ndarray | None, phases: list[str], hz: float, where: str
) -> ExpertMotion:
    motion = Motion.of(rows[:, :3], quaternion, rows[:, 3:], where=where)
    return ExpertMotion(motion, true_switches(np.array(phases)), hz)


def with_phase(policy: Any, observation: np.ndarray) -> tuple[np.ndarray, str]:
    """The policy's action, and the lines at which its goal and its grip were decided."""
    lines: dict[str, int] = {}

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return":
            lines[frame.f_code.co_name] = frame.f_lineno
        return local

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_name in ("_desired_pos", "_grab_effort") else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action = policy.get_action(observation)
    finally:
        sys.settrace(before)
    return action, "/".join(str(lines.get(name, 0)) for name in ("_desired_pos", "_grab_effort"))
