"""HDF5 files of robomimic, LIBERO, Isaac Lab and ALOHA become Episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gap_vla.core.errors import EpisodeError
from gap_vla.demos import Fields, open_source
from tests.helpers.demonstrations import assert_equal, make_episode, write_arrays, write_robomimic

HERE = Path(__file__).parent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_robomimic(tmp_path / "demos.hdf5", [make_episode(i, annotated=False) for i in range(12)])


def arrays(steps: int = 10, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A demonstration of robosuite without pictures."""
    rng = np.random.default_rng(seed)
    found = {"actions": rng.random((steps, 7)), "obs/robot0_eef_pos": rng.random((steps, 3))}
    found["obs/robot0_eef_quat"] = np.tile([0.0, 0, 0.6, 0.8], (steps, 1))
    return found | {"obs/robot0_gripper_qpos": rng.random((steps, 2))} | more


def test_episodes_come_back_equal_and_in_numeric_order(file: Path) -> None:
    found = list(open_source(file))
    assert [e.metadata["episode_id"] for e in found] == [f"demo_{i}" for i in range(12)]
    for i, episode in enumerate(found):
        assert_equal(episode, expected := make_episode(i, annotated=False))
        assert (episode.columns, episode.action_columns) == (expected.columns, expected.action_columns)
        assert "model_file" not in episode.metadata


def test_a_file_that_robomimic_wrote_is_read() -> None:
    source = open_source(HERE / "robomimic/lift.hdf5")
    with h5py.File(HERE / "robomimic/lift.hdf5") as stored:
        obs = stored["data/demo_1/obs"]
        np.testing.assert_array_equal(source[1].arms[0].position, np.float32(obs["robot0_eef_pos"]))
        np.testing.assert_array_equal(source[1].arms[0].quaternion[:, 0], np.float32(obs["robot0_eef_quat"][:, 3]))
        np.testing.assert_array_equal(source[1].images["image_primary"], obs["agentview_image"])
    assert str(source.action_columns) == "position rotvec gripper_01"
    assert len(open_source(HERE / "robomimic/lift.hdf5", Fields(episodes="train"))) == 1


def test_two_arms_stand_side_by_side(tmp_path: Path) -> None:
    other = {name.replace("robot0", "robot1"): value for name, value in arrays(seed=1).items() if "obs" in name}
    source = open_source(write_arrays(tmp_path / "two.hdf5", [{**arrays(), **other, "actions": np.zeros((10, 14))}]))
    assert [arm.quaternion[0].tolist() for arm in source[0].arms] == [pytest.approx([0.8, 0, 0, 0.6])] * 2
    assert str(source.action_columns) == "position rotvec gripper_01 | position rotvec gripper_01"


def test_joint_targets_are_not_called_movements(tmp_path: Path) -> None:
    controller = {"env_kwargs": {"controller_configs": {"type": "JOINT_POSITION"}}}
    assert open_source(write_arrays(tmp_path / "joints.hdf5", [arrays()], env_args=controller)).action_columns is None


def test_liberos_file_is_read_upright_with_its_instruction(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), np.uint8)
    demo = {"obs/ee_pos": np.zeros((10, 3)), "obs/ee_ori": np.ones((10, 3)), "obs/ee_states": np.zeros((10, 6))}
    demo |= {"obs/gripper_states": np.zeros((10, 2)), "obs/joint_states": np.ones((10, 7))}
    demo |= {"actions": np.zeros((10, 7))}
    demo |= {"obs/agentview_rgb": pictures, "obs/eye_in_hand_rgb": pictures[:, :4, :4]}
    told = {"problem_info": {"language_instruction": "open it"}, "macros_image_convention": "opengl"}
    path = write_arrays(tmp_path / "open_it_demo.hdf5", [demo] * 2, **told)
    for fields in (Fields(), Fields(layout="libero"), Fields(state="ee_states+gripper_states")):
        source = open_source(path, fields)
        assert str(source.columns) == "position rotvec gripper:2"
        assert source[1].language_instruction == "open it"
        np.testing.assert_array_equal(source[0].images["image_primary"], pictures[:, ::-1])
        assert source[0].images["image_wrist"].shape == (10, 4, 4, 3)


def test_what_was_observed_behind_the_last_action_is_left_out(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "maniskill.h5", "w") as stored:
        for i in range(2):
            stored[f"traj_{i}/actions"], stored[f"traj_{i}/obs/agent/qpos"] = np.zeros((8, 8)), np.ones((9, 9))
            stored[f"traj_{i}/obs/extra/tcp_pose"] = np.tile([0, 0, 0, 1.0, 0, 0, 0], (9, 1))
            stored[f"traj_{i}/obs/sensor_data/base_camera/rgb"] = np.zeros((9, 8, 8, 3), np.uint8)
            stored[f"traj_{i}/success"] = np.arange(8) == 7 - i
    images = {"image_primary": "sensor_data/base_camera/rgb"}
    fields = Fields(state="extra/tcp_pose", columns="position quat_wxyz", images=images)
    first, second = open_source(tmp_path / "maniskill.h5", fields)
    assert first.proprio.shape == (8, 7) and first.images["image_primary"].shape == (8, 8, 8, 3)
    assert (first.success, second.success) == (True, False)


def test_any_arrays_can_be_joined_and_described(tmp_path: Path) -> None:
    demo = {"cmd": np.ones((6, 2)), "q": np.ones((6, 3)), "hand": np.zeros(6)}
    path = write_arrays(tmp_path / "own.hdf5", [demo] * 2)
    with pytest.raises(EpisodeError, match="hand"):
        open_source(path)
    source = open_source(path, Fields(state="q+hand", action="cmd", columns="joints:3 gripper_01"))
    assert source[0].proprio.tolist() == [[1, 1, 1, 0]] * 6
    assert source.rows(1, "hand+cmd").shape == (6, 3)
    for wrong in (Fields(state="q+foot"), Fields(state="q", columns="joints:6")):
        with pytest.raises(EpisodeError, match=r"foot|joints:6"):
            open_source(path, wrong)


@pytest.mark.parametrize(
    ("selection", "names"), [("2:4,7", "2 3 7"), ("10:", "10 11"), ("demo_3", "3"), ("few", "1 10")]
)
def test_episodes_are_selected_by_number_filter_or_name(file: Path, selection: str, names: str) -> None:
    with h5py.File(file, "a") as stored:
        stored["mask/few"] = [b"demo_10", b"demo_1", b"demo_99"]
    source = open_source(file, Fields(episodes=selection))
    assert [e.metadata["episode_id"] for e in source] == [f"demo_{name}" for name in names.split()]
    assert "demo_99" in source.account()


@pytest.mark.parametrize("place", ["demo", "ep_meta", "data", "env_args"])
def test_an_instruction_is_found_wherever_simulators_write_it(tmp_path: Path, place: str) -> None:
    path = write_arrays(tmp_path / "told.hdf5", [arrays()])
    with h5py.File(path, "a") as stored:
        data, demo = stored["data"], stored["data/demo_0"]
        holder = demo if place in ("demo", "ep_meta") else data
        key = place if place in ("ep_meta", "env_args") else "language_instruction"
        holder.attrs[key] = json.dumps({"lang": "push"}) if key == place else "push"
    assert open_source(path)[0].language_instruction == "push"
    assert open_source(path, Fields(instruction="text=pull"))[0].language_instruction == "pull"


def test_pictures_of_other_forms_become_rgb(tmp_path: Path) -> None:
    forms = {"grey": (10, 8, 6), "one": (10, 8, 6, 1), "first": (10, 3, 8, 6), "alpha": (10, 8, 6, 4)}
    path = write_arrays(tmp_path / "p.hdf5", [arrays(**{k: np.zeros(s, np.uint8) for k, s in forms.items()})])
    source = open_source(path, Fields(images={f"image_{key}": key for key in forms}, image_size=(16, 12)))
    assert {frames.shape for frames in source[0].images.values()} == {(10, 16, 12, 3)}
    assert source.read(0, images=False).images == {}
    with pytest.raises(EpisodeError, match="red"):
        open_source(path, Fields(images={"image_primary": "red"}))


def test_damage_is_named(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cut.hdf5").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(EpisodeError, match=r"cut\.hdf5"):
        open_source(tmp_path / "cut.hdf5")
    with h5py.File(file, "a") as stored:
        stored["data/demo_1/obs/robot0_eef_pos"][3] = np.nan
        del stored["data/demo_2/actions"]
        stored["data/demo_2/actions"] = np.zeros((3, 7))
        del stored["data/demo_3/obs/robot0_eef_quat"]
    source = open_source(file)
    for index, word in ((1, "proprio"), (2, "action"), (3, "robot0_eef_quat")):
        with pytest.raises(EpisodeError, match=rf"demo_{index}.*{word}"):
            source.read(index)


def test_bytes_that_call_themselves_objects_are_no_pointers(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "odd.hdf5", [arrays()])
    with h5py.File(path, "a") as stored:
        kind = h5py.h5t.create(h5py.h5t.OPAQUE, 8)
        kind.set_tag(b"NUMPY:O")
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(stored["data/demo_0"].id, b"phase", kind, space)
        h5py.h5a.create(stored["data/demo_0"].id, b"odd", kind, space)
    with pytest.raises(EpisodeError, match="phase"):
        open_source(path)[0]


def test_a_copy_with_labels_holds_everything_else_too(file: Path, tmp_path: Path) -> None:
    before, source = file.read_bytes(), open_source(file)
    labels = [
        {"rho": np.linspace(0, 1, len(e), dtype=np.float32), "change_point": np.arange(len(e)) == 4} for e in source
    ]
    source.write_labels(tmp_path / "out.hdf5", labels, {"method": "lstm"})
    source.write_labels(tmp_path / "again.hdf5", labels, {"method": "lstm"})
    copy = open_source(tmp_path / "out.hdf5")
    for found, episode, own in zip(copy, source, labels):
        assert_equal(found, episode.replace(**own))
    with h5py.File(copy.path) as stored:
        assert json.loads(stored["data"].attrs["annotator"]) == {"method": "lstm"}
        assert "model_file" in stored["data/demo_0"].attrs and "rewards" in stored["data/demo_0"]
    assert file.read_bytes() == before
    copy.write_labels(tmp_path / "third.hdf5", [{**own, "rho": 0 * own["rho"]} for own in labels], {})
    assert not open_source(tmp_path / "third.hdf5")[0].rho.any()
