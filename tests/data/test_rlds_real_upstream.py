"""ρ through the own pipelines of Octo, OpenVLA and OpenVLA-OFT.

Needs an environment with upstream's pins (docs/UPSTREAM.md says how), because they exclude ours, and checkouts:

    UPSTREAM_PYTHON=/path/to/venv/bin/python OPENVLA=/path/to/openvla OPENVLA_OFT=/path/to/openvla-oft \\
        python -m pytest tests/data/test_rlds_real_upstream.py
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gap_vla.rlds import EpisodeStore, WindowLoader, write_rlds
from tests.helpers.demonstrations import make_episode

PYTHON = os.environ.get("UPSTREAM_PYTHON")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not PYTHON, reason="UPSTREAM_PYTHON names no environment with dlimp and octo")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("real")
    episodes = [make_episode(i).replace(language_instruction=f"task {i}") for i in range(6)]
    return write_rlds(episodes, home, "toy", val_fraction=0.2)


@pytest.fixture(scope="module")
def theirs(dataset: Path) -> dict[str, np.ndarray]:
    out = dataset.parent / "theirs.npz"
    return run("real_upstream.py", dataset.parents[1], "toy", out)


def run(script: str, *arguments: object) -> dict[str, np.ndarray]:
    """The arrays that a script of this folder writes to its last argument, by upstream's Python."""
    command = [str(PYTHON), str(ROOT / "tests/data" / script), *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(str(arguments[-1])))


def ours(dataset: Path, kind: str, **shape: int) -> dict[str, np.ndarray]:
    loader = WindowLoader(
        EpisodeStore.build(dataset),
        split="train",
        batch_size=64,
        seed=0,
        train=False,
        normalization=kind,
        **{"window_size": 2, "action_horizon": 4, **shape},
    )
    names = ("action", "action_pad_mask", "rho", "change_point")
    batches = [{**b["observation"], **{k: b[k] for k in names}} for b in loader]
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0] if k != "pad_mask_dict"}


@pytest.mark.parametrize("kind", ["normal", "bounds"])
def test_the_windows_and_rho_are_ours(dataset: Path, theirs: dict[str, np.ndarray], kind: str) -> None:
    mine = ours(dataset, kind)
    found = {key.split("/")[1]: value for key, value in theirs.items() if key.startswith(f"{kind}/")}
    assert len(found["rho"]) == len(mine["rho"])
    orders = [np.argsort(some["rho"][:, -1]) for some in (mine, found)]  # ρ is exact, so it tells the steps apart
    for key, value in found.items():
        a, b = mine[key][orders[0]], value[orders[1]]
        if value.dtype.kind == "f" and key != "rho":
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(a, b, err_msg=key)


@pytest.mark.parametrize(("checkout", "horizon"), [("OPENVLA", 1), ("OPENVLA_OFT", 8)])
def test_openvla_gets_rho_and_our_actions(dataset: Path, tmp_path: Path, checkout: str, horizon: int) -> None:
    if checkout not in os.environ:
        pytest.skip(f"{checkout} names no checkout")
    out = tmp_path / "theirs.npz"
    found = run("real_openvla.py", os.environ[checkout], horizon - 1, dataset.parents[1], "toy", out)
    mine = ours(dataset, "bounds_q99", window_size=1, action_horizon=horizon)
    row = {value: i for i, value in enumerate(mine["rho"][:, 0].tolist())}
    order = [row[value] for value in found["rho"].tolist()]
    # OpenVLA-OFT leaves out the last H - 1 steps of every episode.
    assert sorted(order) == np.flatnonzero(mine["action_pad_mask"][:, 0, -1, 0]).tolist()
    action = mine["action"][order, 0]
    np.testing.assert_allclose(found["action"][..., :6], action[..., :6], atol=1e-5)
    np.testing.assert_allclose(found["action"][..., 6], 1 - np.clip(action[..., 6], 0, 1), atol=1e-6)
    np.testing.assert_array_equal(found["image_primary"], mine["image_primary"][order, 0])
    np.testing.assert_allclose(found["proprio"], mine["proprio"][order, 0], atol=1e-5)
