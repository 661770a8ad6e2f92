"""Demonstrations leave for other formats and come back; datasets come from the hub by their names."""

from pathlib import Path

import numpy as np
import pytest

from gap_vla.cli.data import convert
from gap_vla.core.errors import UserError
from gap_vla.demos.fields import Fields
from gap_vla.demos.source import open_source
from tests.helpers.demonstrations import write_lerobot

STATE = ["x", "y", "z", "qw", "qx", "qy", "qz", "gripper"]


def dataset(path):
    """A LeRobot dataset of two tasks with ρ beside it, and a failure."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, steps in enumerate((9, 12)):
        state = rng.normal(size=(steps, 8)).astype(np.float32)
        columns = {"observation.state": state, "action": state[:, :7], "next.success": np.full((steps, 1), number)}
        pictures = rng.integers(0, 255, (steps, 16, 24, 3), np.uint8)
        episodes.append(
            {"task": f"task {number}", "columns": columns, "images": {"observation.images.front": pictures}}
        )
    root = write_lerobot(path, episodes, {"observation.state": STATE, "action": None}, pictures="image")
    source = open_source(root)
    labels = [
        {"rho": rng.random(len(one)).astype(np.float32), "change_point": np.arange(len(one)) == 4} for one in source
    ]
    source.write_labels(source.sidecar, labels, {"method": "made up"})
    return root


def require_same(first, second, pictures="image_primary"):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        for name in ("proprio", "action", "rho", "change_point"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        np.testing.assert_array_equal(a.images[pictures], b.images[pictures])
        for name in ("language_instruction", "success", "columns", "action_columns"):
            assert {str(getattr(a, name))} == {str(getattr(b, name))}


def test_lerobot_becomes_robomimic_and_nothing_that_both_have_is_lost(tmp_path):
    source, out = dataset(tmp_path / "set"), tmp_path / "out.hdf5"
    assert not convert([str(source), "--out", str(out)])
    require_same(open_source(source), open_source(out))
    assert open_source(out).fps == open_source(source).fps == 10
    assert [one.success for one in open_source(out)] == [False, True]
    assert convert([str(source), "--out", str(out)]) == 2
    assert not convert([str(source), "--out", str(out), "--overwrite", "--episodes", "1"])
    assert len(open_source(out)) == 1


def test_lerobot_becomes_rlds_and_that_robomimic_with_the_rho_that_is_stored(tmp_path):
    pytest.importorskip("tensorflow")
    from gap_vla.rlds.convert import build_dataset

    source = open_source(dataset(tmp_path / "set"))
    built = build_dataset(source, tmp_path, "made", method="none", val_fraction=0, workers=1)
    assert not convert([str(built), "--out", str(tmp_path / "back.hdf5")])
    require_same(source, open_source(tmp_path / "back.hdf5"))


def test_a_dataset_of_the_hub_is_read_by_its_name(tmp_path, monkeypatch):
    import huggingface_hub

    root, asked = dataset(tmp_path / "hub/files"), []

    def download(name, *, repo_type):
        asked.append((name, repo_type))
        if name != "lerobot/pusht":
            raise OSError("offline")
        return str(root)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert len(open_source(Path("lerobot/pusht"))) == 2
    assert len(open_source("lerobot/pusht", Fields(episodes="1"), kind="lerobot")) == 1
    assert asked == [("lerobot/pusht", "dataset")] * 2
    assert len(open_source("hub/files")) == 2  # a folder that is here
    with pytest.raises(UserError, match=r"lerobot/push_t.*offline"):
        open_source("lerobot/push_t")
    with pytest.raises(UserError, match="no such"):
        open_source("data/threading.hdf5")
    assert len(asked) == 3
