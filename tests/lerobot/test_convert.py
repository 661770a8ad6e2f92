"""Demonstrations become LeRobot datasets by LeRobot's own writer, and come back. `make test-lerobot` runs it."""

import os

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("lerobot", reason="LeRobot lives in an environment of its own: make test-lerobot")

from gap_vla.cli.data import convert
from gap_vla.demos.source import open_source

COLUMNS = "joints_deg:5 gripper_01 | position quat_xyzw gripper"


@pytest.fixture
def demos(tmp_path):
    """A folder of npz: two demonstrations with ρ, the second one a failure."""
    (folder := tmp_path / "demos").mkdir()
    for number, steps in enumerate((14, 11)):
        rng = np.random.default_rng(number)
        shade = np.linspace(0, 200, steps).astype(np.uint8)[:, None, None, None]
        np.savez(
            folder / f"demo_{number}.npz",
            proprio=rng.normal(size=(steps, 14)).astype(np.float32),
            action=rng.normal(size=(steps, 7)).astype(np.float32),
            image_primary=np.broadcast_to(shade, (steps, 64, 96, 3)),
            rho=rng.random(steps).astype(np.float32),
            change_point=np.arange(steps) == 5,
            language_instruction=f"task {number}",
            success=not number,
            columns=COLUMNS,
            action_columns="position rotvec gripper_01",
        )
    return folder


@pytest.mark.parametrize("how", [["--tables"], []])
def test_what_lerobot_writes_is_read_back_by_it_and_by_us(demos, tmp_path, how):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    out = tmp_path / "out"
    assert not convert([str(demos), "--out", str(out), "--fps", "15", *how])
    first, second = open_source(demos), open_source(out)
    assert second.fps == 15 and str(second.columns) == COLUMNS
    for a, b in zip(first, second, strict=True):
        for name in ("proprio", "action", "rho", "change_point"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name in ("language_instruction", "success", "columns", "action_columns"):
            assert getattr(a, name) == getattr(b, name)
        off = np.abs(a.images["image_primary"].astype(int) - b.images["image_primary"]).max()
        assert off == 0 if how else off < 16
    loaded = LeRobotDataset("local/out", root=out)
    assert (len(loaded), loaded.meta.total_episodes) == (25, 2)
    assert loaded.meta.features["observation.state"]["names"][5:8] == ["left_gripper", "right_x", "right_y"]
    assert convert([str(demos), "--out", str(out)]) == 2
    assert not convert([str(out), "--out", str(tmp_path / "again"), "--overwrite", *how])
    names = [LeRobotDataset("a", root=path).meta.features["action"]["names"] for path in (out, tmp_path / "again")]
    assert names[0] == names[1]
    np.testing.assert_array_equal(open_source(tmp_path / "again")[1].rho, first[1].rho)
