"""An episode store of made-up demonstrations, written without TensorFlow: a red square shows where to go, and a
green edge whether to go there or back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gap_vla.core.columns import DELTA, POSE
from gap_vla.core.episode import Episode
from gap_vla.rlds import store as stores
from gap_vla.training.torch import SmallConfig

SIZE = 32


def episode(
    seed: int, *, rho: bool = True, length: int = 24, phases: bool = True, cameras: tuple[str, ...] = ("primary",)
) -> Episode:
    """The hand moves in a straight line to the square, rests, and goes back; ρ is 1 around the turn. What another
    camera than the primary one shows is its negative."""
    rng = np.random.default_rng(seed)
    goal = rng.uniform(-1, 1, 2)
    half = length // 2
    way = np.minimum(np.arange(length), length - 1 - np.arange(length)) / half
    proprio = np.zeros((length, 9), np.float32)
    proprio[:, :2], proprio[:, 3] = way[:, None] * goal, 1
    action = np.zeros((length, 7), np.float32)
    action[:, :2] = np.where(np.arange(length) < half, 1, -1)[:, None] * goal / half
    action[:, 6] = np.where(np.arange(length) < half, -1, 1)
    image = rng.integers(0, 60, (length, SIZE, SIZE, 3), np.uint8)
    row, column = ((goal + 1) / 2 * (SIZE - 8)).astype(int)
    image[:, row : row + 8, column : column + 8, 0] = 255
    image[:half, :, :6, 1] = image[half:, :, -6:, 1] = 255
    points = np.zeros(length, bool)
    points[half] = True
    near = np.exp(-(((np.arange(length) - half) / 2.0) ** 2)).astype(np.float32)
    return Episode(
        images={f"image_{camera}": image if camera == "primary" else 255 - image for camera in cameras},
        proprio=proprio,
        action=action,
        rho=near if rho else None,
        change_point=points if rho else None,
        phase=np.where(np.arange(length) < half, "reach", "return") if phases else None,
        columns=POSE,
        action_columns=DELTA,
    )


def write_store(directory: Path, *, train: int = 6, val: int = 2, **options) -> stores.EpisodeStore:
    """A store of `train` and `val` episodes; `options` of `episode`."""
    directory.mkdir(parents=True)
    splits = {
        split: [episode(seed, **options) for seed in seeds]
        for split, seeds in (("train", range(train)), ("val", range(100, 100 + val)))
    }
    source_hash = f"toy-{train}-{val}-{sorted(options.items())}"
    stores.write_store(directory, splits, source=str(directory), source_hash=source_hash)
    return stores.EpisodeStore.open(directory)


def toy_config(root: Path | str, method: str = "vp", **changes) -> SmallConfig:
    """A tiny experiment whose runs and data lie below `root`; `changes` by section, e.g. `model=dict(head="gmm")`."""
    sections = {
        "demos": dict(image_size=SIZE),
        "data": dict(root=f"{root}/data"),
        "model": dict(encoder_width=8, feature_dim=16, head_dim=32, action_horizon=4, proprio_history=3),
        "optimizer": dict(learning_rate=1e-2, warmup_steps=2),
        "train": dict(steps=12, batch_size=16, log_every=4, validate_every=6, save_every=4, precision="float32"),
        "eval": dict(episodes=0),
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    return SmallConfig.from_dict({"task": "assembly", "method": method, "runs": f"{root}/runs", **sections})
