"""Collections: robomimic's layout, complete or absent, resumable, equal for any number of workers."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

import gap_vla.sim as sim
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.sim import collection as collecting
from gap_vla.sim.collection import collect_demos

SETTINGS = dict(image_size=32, cameras=("primary",), seed=3, action_noise=0.1, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A collection of three, and a copy of its folder of finished attempts."""
    folder = tmp_path_factory.mktemp("demos")
    remove, parts = shutil.rmtree, folder / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting.shutil, "rmtree", lambda path: (shutil.copytree(path, parts), remove(path)))
        return collect_demos("assembly", 3, folder / "a.hdf5", **SETTINGS), parts


@pytest.fixture(scope="module")
def collection(finished):
    return finished[0]


def test_the_file_has_robomimics_layout(collection):
    with h5py.File(collection) as file:
        data = file["data"]
        env_args = json.loads(data.attrs["env_args"])
        assert env_args["env_name"] == "gap_vla/Assembly-v0" and env_args["env_kwargs"]["image_size"] == 32
        assert list(data) == ["demo_0", "demo_1", "demo_2"]
        assert data.attrs["columns"] == str(sim.task_spec("assembly").columns)
        assert data.attrs["total"] == sum(demo.attrs["num_samples"] for demo in data.values())
        demo = data["demo_0"]
        steps = demo.attrs["num_samples"]
        assert demo["obs/image_primary"].shape == (steps, 32, 32, 3) and demo["obs/image_primary"].dtype == np.uint8
        assert demo["obs/robot0_eef_pos"].shape == (steps, 3) and demo["obs/robot0_gripper_qpos"].shape == (steps, 2)
        np.testing.assert_allclose(np.linalg.norm(demo["obs/robot0_eef_quat"][:], axis=1), 1, atol=1e-5)
        assert demo["actions"].shape == demo["executed_actions"].shape == (steps, 7)
        assert demo["dones"][-1] == 1 and demo["dones"][:-1].sum() == 0
        assert demo["phase"].asstr()[0] == "reach" and demo["phase_switch"][0]


def test_the_positions_of_objects_are_recorded_before_each_action(collection):
    with h5py.File(collection) as file:
        demo = file["data/demo_0"]
        objects, names = demo["obs/object"][:].reshape(-1, 3, 3), list(demo["obs/object"].attrs["names"])
        seed = int(demo.attrs["seed"])
    env = sim.make("assembly", cameras=())
    env.reset(seed=seed)
    np.testing.assert_allclose(objects[0], list(env.world.objects().values()), atol=1e-6)
    ring, peg = (objects[:, names.index(name)] for name in ("ring", "peg"))
    assert np.ptp(peg, axis=0).max() < 1e-6 and np.linalg.norm((ring - peg)[-1, :2]) < 0.02
    moves = np.abs(np.diff(ring, axis=0)).max(1) > 1e-3
    assert moves[-40:].any() and not moves[:20].any()  # it lies still until the hand has grasped it


def test_an_interrupted_collection_continues_to_the_same_file_with_one_worker(finished, tmp_path):
    out = tmp_path / "again.hdf5"
    attempts = sorted(shutil.copytree(finished[1], tmp_path / "again.hdf5.parts").glob("attempt_*"))
    attempts[1].unlink()  # of two workers, the other was faster
    collect_demos("assembly", 3, out, workers=1, **SETTINGS)
    assert out.read_bytes() == finished[0].read_bytes() and [*tmp_path.iterdir()] == [out]


def test_attempts_that_fail_are_counted_and_replaced_by_the_next(finished, tmp_path):
    out = tmp_path / "less.hdf5"
    attempts = sorted(shutil.copytree(finished[1], tmp_path / "less.hdf5.parts").glob("attempt_*"))
    attempts[1].rename(attempts[1].with_suffix(".failed"))
    collect_demos("assembly", 2, out, **SETTINGS)
    with h5py.File(out) as less, h5py.File(finished[0]) as whole:
        assert (less["data"].attrs["attempts"], less["data"].attrs["failures"]) == (3, 1)
        seeds = [demo.attrs["seed"] for demo in less["data"].values()]
        assert seeds == [whole[f"data/demo_{i}"].attrs["seed"] for i in (0, 2)]


def test_parts_of_other_settings_are_refused(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "b.hdf5.parts")
    with pytest.raises(UserError, match=r"b\.hdf5\.parts"):
        collect_demos("assembly", 3, tmp_path / "b.hdf5", **SETTINGS | {"seed": 4})


def test_an_existing_file_is_replaced_only_when_asked(collection, tmp_path):
    out = tmp_path / "mine.hdf5"
    out.write_text("mine")
    with pytest.raises(UserError, match="mine"):
        collect_demos("assembly", 3, out, **SETTINGS)
    assert out.read_text() == "mine"


def test_unknown_names_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="assembly"):
        collect_demos("assembli", 1, tmp_path / "y.hdf5")
    assert not list(tmp_path.iterdir())


def test_an_expert_that_always_fails_ends_the_collection(tmp_path, monkeypatch):
    parts = tmp_path / "x.hdf5.parts"
    parts.mkdir()
    for attempt in range(30):
        (parts / f"attempt_{attempt:06d}.failed").touch()
    with pytest.raises(UserError, match="assembly"):
        collect_demos("assembly", 30, tmp_path / "x.hdf5", workers=1, **SETTINGS)
