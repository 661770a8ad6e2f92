"""ρ through the own pipelines of OpenVLA and OpenVLA-OFT.

Needs an environment with OpenVLA's pins, because they exclude ours, and checkouts:

    UPSTREAM_PYTHON=/path/to/venv/bin/python OPENVLA=/path/to/openvla OPENVLA_OFT=/path/to/openvla-oft \\
        python -m pytest tests/data/test_openvla.py
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gap_vla.rlds import EpisodeStore, WindowLoader, write_rlds
from tests.helpers.demonstrations import make_episode

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("checkout", "horizon"), [("OPENVLA", 1), ("OPENVLA_OFT", 8)])
def test_openvla_gets_rho_and_our_actions(tmp_path: Path, checkout: str, horizon: int) -> None:
    if not {"UPSTREAM_PYTHON", checkout} <= {*os.environ}:
        pytest.skip(f"UPSTREAM_PYTHON and {checkout} name no environment and no checkout")
    episodes = [make_episode(i).replace(language_instruction=f"task {i}") for i in range(6)]
    dataset, out = write_rlds(episodes, tmp_path, "toy", val_fraction=0.2), tmp_path / "theirs.npz"
    command = [os.environ["UPSTREAM_PYTHON"], ROOT / "tests/data/real_openvla.py", os.environ[checkout]]
    subprocess.run(
        [*map(str, command), str(horizon - 1), tmp_path, "toy", out],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    found = np.load(out)
    shape = {"window_size": 1, "action_horizon": horizon, "normalization": "bounds_q99"}
    loader = WindowLoader(EpisodeStore.build(dataset), split="train", batch_size=10_000, seed=0, train=False, **shape)
    mine = next(loader)
    row = {value: i for i, value in enumerate(mine["rho"][:, 0].tolist())}  # ρ is exact, so it tells the steps apart
    order = [row[value] for value in found["rho"].tolist()]
    # OpenVLA-OFT leaves out the last H - 1 steps of every episode.
    assert sorted(order) == np.flatnonzero(mine["action_pad_mask"][:, 0, -1, 0]).tolist()
    action = mine["action"][order, 0]
    np.testing.assert_allclose(found["action"][..., :6], action[..., :6], atol=1e-5)
    np.testing.assert_allclose(found["action"][..., 6], 1 - np.clip(action[..., 6], 0, 1), atol=1e-6)
    np.testing.assert_array_equal(found["image_primary"], mine["observation"]["image_primary"][order, 0])
    np.testing.assert_allclose(found["proprio"], mine["observation"]["proprio"][order, 0], atol=1e-5)
