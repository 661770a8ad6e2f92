"""Synthetic demonstrations, and a robomimic-layout file written with h5py alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.episode import Episode

LANGUAGES = ("put the needle through the ring", "lift the block", "")


def make_episode(index: int, steps: int | None = None, size: int = 16, annotated: bool = True) -> Episode:
    rng = np.random.default_rng(index)
    steps = steps or int(rng.integers(12, 30))
    quaternion = rng.normal(size=(steps, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    position = np.cumsum(rng.normal(0, 0.01, (steps, 3)), 0)
    proprio = np.concatenate([position, quaternion, rng.random((steps, 2)) * 0.04], 1).astype(np.float32)
    change_point = rng.random(steps) < 0.1
    change_point[0] = False
    return Episode(
        images={
            "image_primary": rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8),
            "image_wrist": rng.integers(0, 256, (steps, size // 2, size // 2, 3), dtype=np.uint8),
        },
        proprio=proprio,
        action=np.clip(rng.normal(0, 0.5, (steps, 7)), -1, 1).astype(np.float32),
        language_instruction=LANGUAGES[index % 3],
        success=index % 4 != 3,
        phase=np.array(["reach", "grasp"])[(np.arange(steps) > steps // 2).astype(int)],
        rho=rng.random(steps).astype(np.float32) if annotated else None,
        change_point=change_point if annotated else None,
        metadata={"episode_id": f"demo_{index}", "file_path": "synthetic", "seed": index},
    )


def write_robomimic(path: Path, episodes: list[Episode]) -> Path:
    """robomimic's layout and names (agentview_image, quaternion xyzw), as its own tools write it."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(len(e) for e in episodes)
        data.attrs["env_args"] = json.dumps({"env_name": "Synthetic", "type": 1, "env_kwargs": {}})
        for i, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = len(episode)
            demo.attrs["language_instruction"] = episode.language_instruction
            demo.attrs["success"] = episode.success
            demo.attrs["model_file"] = "<mujoco>" + "x" * 500 + "</mujoco>"
            demo["actions"] = episode.action.astype(np.float64)
            demo["rewards"] = np.zeros(len(episode))
            demo["dones"] = np.zeros(len(episode), int)
            demo["obs/robot0_eef_pos"] = episode.proprio[:, :3].astype(np.float64)
            demo["obs/robot0_eef_quat"] = np.roll(episode.proprio[:, 3:7], -1, axis=1).astype(np.float64)
            demo["obs/robot0_gripper_qpos"] = episode.proprio[:, 7:].astype(np.float64)
            demo["obs/object"] = np.zeros((len(episode), 10))
            demo["obs/agentview_image"] = episode.images["image_primary"]
            demo["obs/robot0_eye_in_hand_image"] = episode.images["image_wrist"]
            if episode.phase is not None:
                demo["phase"] = episode.phase.astype("S")
    return path


def assert_equal(found: Episode, expected: Episode) -> None:
    for name in ("proprio", "action", "rho", "change_point", "phase"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype.kind == b.dtype.kind and np.array_equal(a, b), name
    assert set(found.images) == set(expected.images)
    for key, value in expected.images.items():
        assert np.array_equal(found.images[key], value), key
    assert found.language_instruction == expected.language_instruction
    assert found.success == expected.success


def same(first: Any, second: Any, path: str = "") -> None:
    """Batches are equal: numbers to 1e-5, everything else exactly."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            same(first[key], second[key], f"{path}/{key}")
    elif first.dtype.kind == "f":
        np.testing.assert_allclose(first, second, atol=1e-5, err_msg=path)
    else:
        np.testing.assert_array_equal(first, second, err_msg=path)
