"""Change points from joint angles, alone and by forward kinematics, beside those from the pose.

The constants of the joint objective (window, price) were chosen on `CHOSEN_ON`, on the recordings of seed 7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.phase_benchmark.finders import ours
from experiments.phase_benchmark.motions import ExpertMotion
from experiments.phase_benchmark.scores import boundary_scores
from experiments.phase_benchmark.study import SIMULATED, our_motions
from gap_vla.demos.kinematics import Chain
from gap_vla.phases.motion import Motion

CHOSEN_ON = ("threading", "stack", "assembly", "pick_place")
FIRST_JOINT = {"threading": (7,), "stack": (14,), "hammer_drawer": (8,), "handover": (7, 16)}
"""Place of each Panda's first joint in MuJoCo's qpos; Meta-World's Sawyer begins it. A Panda has seven joints, and so
has a Sawyer."""
FRESH = ("seeds", 20)
"""Recordings with which nothing was chosen (`SIMULATED`), and at most so many of each task."""
PERCENT = 200 / np.array([5.8, 3.5, 5.8, 3.0, 5.8, 3.8, 5.8])
"""From rad to percent of a Panda's range, -100 to 100."""
JITTER = np.deg2rad(0.3)
ENCODER = 2 * np.pi / 2**12

Joints = list[np.ndarray]
"""Of each arm f64[T, 7], rad."""


def by_pose(motion: Motion, joints: Joints, robot: str) -> Motion:
    """What is recorded."""
    return motion


def by_kinematics(motion: Motion, joints: Joints, robot: str) -> Motion:
    """Joints, from which the robot's chain makes poses."""
    position, quaternion = zip(*(Chain.named(robot).pose(own) for own in joints))
    return Motion.of(np.concatenate(position, axis=1), np.concatenate(quaternion, axis=1), motion.gripper)


def by_joints(motion: Motion, joints: Joints, robot: str) -> Motion:
    """Joints alone."""
    return Motion.of(np.concatenate(joints, axis=1), gripper=motion.gripper, joints=joints[0].shape[1])


def in_percent(motion: Motion, joints: Joints, robot: str) -> Motion:
    return by_joints(motion, [own * PERCENT for own in joints], robot)


def _measured(joints: Joints) -> Joints:
    """As an encoder of 12 bits says them, with a jitter of 0.3°."""
    rng = np.random.default_rng(0)
    return [np.round((own + rng.normal(0, JITTER, own.shape)) / ENCODER) * ENCODER for own in joints]


WAYS: dict[str, Callable[[Motion, Joints, str], Motion]] = {
    "pose": by_pose,
    "joints, by the robot's kinematics": by_kinematics,
    "joints alone": by_joints,
    "joints alone, in percent of a Panda's ranges": in_percent,
    "joints alone, 12-bit encoder with 0.3° of jitter": lambda m, q, r: by_joints(m, _measured(q), r),
    "by kinematics, 12-bit encoder with 0.3° of jitter": lambda m, q, r: by_kinematics(m, _measured(q), r),
}


def joints_of(path: Path, task: str, number: int) -> list[Joints]:
    """The joints of the first recordings of a file, which `load_motions` reads."""
    from gap_vla.demos import open_source

    source = open_source(path)
    states = [source.rows(index, "states")[:, 1:].astype(np.float64) for index in range(number)]
    return [[rows[:, first : first + 7] for first in FIRST_JOINT.get(task, (0,))] for rows in states]


def study(demos: Path, tasks: Mapping[str, Sequence[ExpertMotion]]) -> dict[str, Any]:
    """F1@5 of every way.

    Args:
        demos: folder with the recordings `tasks`, and those of `FRESH` in a folder of their own.

    Returns:
        {"seed 7" | "fresh": {way: {"tasks": {task: float}, "chosen_on", "others", "mean": float}}}; chosen_on and
        others are the means over `CHOSEN_ON` and over the other tasks.
    """
    name, most = FRESH
    number = min(most, min(map(len, tasks.values())))
    fresh = {task: our_motions(demos / name, task, number, **SIMULATED[name]) for task in tasks}
    out: dict[str, Any] = {}
    for title, folder, recordings in (("seed 7", demos, tasks), ("fresh", demos / name, fresh)):
        found: dict[str, dict[str, float]] = {way: {} for way in WAYS}
        for task, own in recordings.items():
            joints = joints_of(folder / f"{task}.hdf5", task, len(own))
            robot = "panda" if task in FIRST_JOINT else "sawyer"
            for way, made in WAYS.items():
                moved = [dataclasses.replace(r, motion=made(r.motion, q, robot)) for r, q in zip(own, joints)]
                found[way][task] = _f1(moved)
        out[title] = {way: {"tasks": each, **_means(each)} for way, each in found.items()}
        for way, scores in out[title].items():
            print(f"{title}, {way}: F1@5 {scores['chosen_on']:.3f}, others {scores['others']:.3f}", flush=True)
    return out


def _f1(recordings: Sequence[ExpertMotion]) -> float:
    points = ours([r.motion for r in recordings], 0.0)
    return boundary_scores(points, [r.switches for r in recordings], 5)["f1"]


def _means(each: Mapping[str, float]) -> dict[str, float]:
    chosen = [score for task, score in each.items() if task in CHOSEN_ON]
    others = [score for task, score in each.items() if task not in CHOSEN_ON]
    return {name: float(np.mean(scores or [np.nan])) for name, scores in
            (("chosen_on", chosen), ("others", others), ("mean", chosen + others))}  # fmt: skip


def joints_table(results: Mapping[str, Any]) -> list[list[str]]:
    """A row a way of each set of recordings."""
    tasks = [*next(iter(results["fresh"].values()))["tasks"]]
    rows = [["recordings", "from", *tasks, "mean of the four", "of the others", "of all"]]
    for title, ways in results.items():
        for way, scores in ways.items():
            numbers = [
                *(scores["tasks"][task] for task in tasks),
                *(scores[n] for n in ("chosen_on", "others", "mean")),
            ]
            rows.append([title, way, *(f"{number:.2f}" for number in numbers)])
    return rows
