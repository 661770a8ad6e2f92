"""Recordings of tasks and of experts that are not ours: nothing here was looked at while defaults were chosen.

Meta-World's tasks are played by the policies that ship with Meta-World. Such a policy is a chain of conditions; the
phase is which of its `return`s set the hand's goal, and which the grip. robosuite's `Lift` and `PickPlaceCan` have no
expert of their own; a plain list of goals plays them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from experiments.phase_benchmark.recordings import Recording, true_switches
from gap_vla.phases.motion import Motion

METAWORLD = (
    "basketball-v3",
    "box-close-v3",
    "coffee-pull-v3",
    "door-open-v3",
    "hammer-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "shelf-place-v3",
    "stick-push-v3",
    "sweep-into-v3",
)
ROBOSUITE = ("Lift", "PickPlaceCan")

AFTER = 10
"""Steps that are still recorded after success."""

Goal = tuple[str, Callable[[dict[str, np.ndarray]], np.ndarray | None], float, int]
"""A phase's name, where the hand goes (m; None: it stays), the grip (-1 opens), how many steps it waits there."""


def metaworld_recordings(task: str, episodes: int, seed: int) -> list[Recording]:
    """Successful episodes of a Meta-World task, played by Meta-World's own policy; tasks that it fails are left out."""
    import metaworld
    from metaworld.policies import ENV_POLICY_MAP

    benchmark = metaworld.MT1(task, seed=seed)
    env = benchmark.train_classes[task]()
    policy: Any = ENV_POLICY_MAP[task]()  # type: ignore[abstract]
    found: list[Recording] = []
    for variation in benchmark.train_tasks:
        if len(found) == episodes:
            break
        env.set_task(variation)
        observation, _ = env.reset()
        rows, phases, left = [], [], None
        for _ in range(400):
            action, phase = _with_phase(policy, observation)
            rows.append(observation[:4].copy())
            phases.append(phase)
            observation, _, _, _, info = env.step(np.clip(action, -1, 1))
            if left is None and info["success"]:
                left = AFTER
            if left is not None and (left := left - 1) < 0:
                break
        if left is not None:
            found.append(_recording(np.array(rows), None, phases, 80.0, f"{task} {len(found)}"))
    env.close()
    return found


def robosuite_recordings(task: str, episodes: int, seed: int) -> list[Recording]:
    """Successful episodes of a robosuite task, played by a list of goals, with the Panda arm at 20 Hz."""
    import robosuite

    env = robosuite.make(
        task, robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, control_freq=20,
        horizon=1000, ignore_done=True,
    )  # fmt: skip
    np.random.seed(seed)  # noqa: NPY002  (robosuite 1.5 places objects by it)
    found: list[Recording] = []
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
            found.append(_recording(np.array(rows), np.array(turns), phases, 20.0, f"{task} {len(found)}"))
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


def _recording(rows: np.ndarray, quaternion: np.ndarray | None, phases: list[str], hz: float, where: str) -> Recording:
    motion = Motion.of(rows[:, :3], quaternion, rows[:, 3:], where=where)
    return Recording(motion, true_switches(np.array(phases)), hz)


def _with_phase(policy: Any, observation: np.ndarray) -> tuple[np.ndarray, str]:
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
