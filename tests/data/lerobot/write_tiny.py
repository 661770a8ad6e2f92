"""Writes the folders here with LeRobot's own library: `python write_tiny.py FOLDER video|image`, see README.md."""

from __future__ import annotations

import inspect
import sys

import numpy as np

STEPS = (12, 9)
FPS = 10


def recording(episode: int) -> dict[str, np.ndarray]:
    """A block pushed over a ramp of red; blue moves with the step."""
    steps = STEPS[episode]
    t = np.arange(steps)
    action = np.zeros((steps, 7), np.float32)
    action[:, 0], action[:, 1], action[:, 2] = 0.5 * np.sin(t / 3), 0.2, -0.3
    action[:, 6] = np.where(t > steps // 2, 1, -1)
    position = np.array([0.4, 0.0, 0.2]) + np.concatenate([np.zeros((1, 3)), np.cumsum(0.02 * action[:-1, :3], 0)])
    fingers = np.where(t > steps // 2, 0.01, 0.04)[:, None].repeat(2, 1)
    state = np.concatenate([position, np.tile([1, 0, 0, 0], (steps, 1)), fingers], 1).astype(np.float32)
    frames = np.zeros((steps, 64, 64, 3), np.uint8)
    frames[..., 0] = np.arange(64) * 2
    frames[..., 1] = 40 * episode
    for i in range(steps):
        frames[i, 16:48, 4 * i : 4 * i + 8, 2] = 220
    return {"state": state, "action": action, "frames": frames}


def main(folder: str, kind: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    picture = {"dtype": kind, "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.front": picture,
        "observation.state": {
            "dtype": "float32",
            "shape": (9,),
            "names": ["x", "y", "z", "qw", "qx", "qy", "qz", "finger_1", "finger_2"],
        },
        "action": {"dtype": "float32", "shape": (7,), "names": ["dx", "dy", "dz", "rx", "ry", "rz", "gripper"]},
    }
    dataset = LeRobotDataset.create("local/tiny", FPS, features, root=folder, use_videos=kind == "video")
    separate_task = "task" in inspect.signature(dataset.add_frame).parameters  # up to 0.3
    for episode in range(len(STEPS)):
        made, task = recording(episode), f"push block {episode}"
        for i in range(STEPS[episode]):
            frame = {
                "observation.images.front": made["frames"][i],
                "observation.state": made["state"][i],
                "action": made["action"][i],
            }
            if separate_task:
                dataset.add_frame(frame, task)
            else:
                dataset.add_frame({**frame, "task": task})
        dataset.save_episode()
    if hasattr(dataset, "finalize"):  # since 0.4: parquet files are incomplete before
        dataset.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
