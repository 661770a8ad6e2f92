"""What the calls of the corpus are given: small good inputs, and copies of them that are damaged (damages.py).

`Inputs.expand("@demos:truncated", box)` copies the good `demos` into the box, damages it, and returns its path.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import value_damages  # noqa: F401  (adds to DAMAGES)
from damages import DAMAGES

DATA = Path(__file__).parents[1] / "data"
EPISODES, STEPS = 3, 24


def state(seed: int, steps: int = STEPS) -> np.ndarray:
    """float32[steps, 9]: a hand that walks around corners, gripper closing half way."""
    rng = np.random.default_rng(seed)
    legs = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    position = np.cumsum(0.01 * np.repeat(legs, -(-steps // 3), axis=0)[:steps], axis=0)
    fingers = np.where(np.arange(steps) < steps // 2, 0.04, 0.0)[:, None] * [[1, -1]]
    return np.concatenate([position, np.tile([1.0, 0, 0, 0], (steps, 1)), fingers], axis=1).astype(np.float32)


def action(seed: int, steps: int = STEPS) -> np.ndarray:
    """float32[steps, 7] in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 7)).astype(np.float32)


def pictures(seed: int, steps: int = STEPS) -> np.ndarray:
    """uint8[steps, 32, 32, 3]."""
    return np.random.default_rng(seed).integers(0, 255, (steps, 32, 32, 3), dtype=np.uint8)


def make_demos(path: Path) -> None:
    """robomimic's layout, quaternions xyzw."""
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Toy", "type": 1, "env_kwargs": {}})
        for index in range(EPISODES):
            demo, proprio = file.create_group(f"data/demo_{index}"), state(index)
            demo.attrs["num_samples"] = STEPS
            demo.attrs["language_instruction"] = "walk around the corners"
            demo.attrs["success"] = True
            demo["actions"] = action(index)
            demo["obs/image_primary"] = pictures(index)
            demo["obs/robot0_eef_pos"] = proprio[:, :3]
            demo["obs/robot0_eef_quat"] = np.roll(proprio[:, 3:7], -1, axis=1)
            demo["obs/robot0_gripper_qpos"] = proprio[:, 7:]


def make_npz(folder: Path) -> None:
    folder.mkdir()
    for index in range(EPISODES):
        arrays = {"proprio": state(index), "action": action(index), "image_primary": pictures(index)}
        np.savez(folder / f"episode_{index}.npz", **arrays)


def make_pickles(folder: Path) -> None:
    folder.mkdir()
    for index in range(EPISODES):
        arrays = {"state": state(index), "action": action(index), "image": pictures(index)}
        (folder / f"episode_{index}.pkl").write_bytes(pickle.dumps(arrays, protocol=4))


GOOD: dict[str, Callable[[Path], Any]] = {
    "demos.hdf5": make_demos,
    "npz": make_npz,
    "pickles": make_pickles,
    "lerobot": lambda path: shutil.copytree(DATA / "lerobot" / "v30_image", path),
    "lerobot21": lambda path: shutil.copytree(DATA / "lerobot" / "v21_video", path),
    "checkpoint": lambda path: shutil.copytree(DATA / "octo" / "b" / "checkpoint", path),
}
"""Inputs that need no command; `rlds`, `annotator` and `labelled.hdf5` are made by the commands themselves."""


class Inputs:
    """The good inputs in `folder`, and their damaged copies in boxes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, make in GOOD.items():
            make(folder / name)

    def expand(self, word: str, box: Path) -> str:
        """`@NAME[:DAMAGE][/BELOW]` to the path of a copy in `box/in`; other words stay."""
        if not word.startswith("@"):
            return word
        name, _, rest = word[1:].partition(":")
        name, slash, below = name.partition("/")
        harm, slash2, below2 = rest.partition("/")
        target = box / "in" / (name if name != "rlds" else "toy/1.0.0")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.folder / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
            if harm:
                DAMAGES[name][harm](target)
        return str(target) + slash + below + slash2 + below2
