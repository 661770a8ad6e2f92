"""robomimic-layout files become Episodes, and bad files say what is wrong where."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from synthetic_demos import assert_equal, make_episode, write_robomimic

from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source, read
from gap_vla.demos.content import content_digest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Files of so many episodes."""
    episodes = [make_episode(i, annotated=False) for i in range(12)]
    return {n: write_robomimic(tmp_path_factory.mktemp("made") / "demos.hdf5", episodes[:n]) for n in (2, 6, 12)}


@pytest.fixture
def file(made: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(made[12], tmp_path))


@pytest.fixture
def six(made: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(made[6], tmp_path))


@pytest.fixture
def pair(made: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(made[2], tmp_path))


def test_episodes_come_back_equal_and_in_numeric_order(file: Path) -> None:
    found = list(read(file))
    assert [e.metadata["episode_id"] for e in found] == [f"demo_{i}" for i in range(12)]
    for i, episode in enumerate(found):
        assert_equal(episode, make_episode(i, annotated=False))


def test_quaternions_are_wxyz_in_the_episode_and_xyzw_in_the_file(file: Path) -> None:
    with h5py.File(file) as stored:
        xyzw = stored["data/demo_3/obs/robot0_eef_quat"][()]
    wxyz = open_source(file)[3].arms[0].quaternion
    np.testing.assert_allclose(wxyz[:, 0], xyzw[:, 3], rtol=1e-6)


def test_phases_that_change_where_none_begins_are_refused(file: Path) -> None:
    phase = np.array([b"reach", b"reach", b"grasp", b"grasp"])
    with h5py.File(file, "a") as stored:
        for key in ("demo_0", "demo_1"):
            steps = len(stored[f"data/{key}/actions"])
            stored[f"data/{key}"].pop("phase", None)
            stored[f"data/{key}/phase"] = np.resize(phase, steps)
            begins = np.arange(steps) % 2 == 0  # also where one follows another of its name
            stored[f"data/{key}/phase_switch"] = begins if key == "demo_0" else np.roll(begins, 1)
    source = open_source(file)
    assert list(source.read(0).phase[:3]) == ["reach", "reach", "grasp"]
    with pytest.raises(EpisodeError, match=r"demo_1: phase changes at step 2, where phase_switch is false; correct"):
        source.read(1)


def test_two_arms_are_concatenated(file: Path) -> None:
    with h5py.File(file, "a") as stored:
        for demo in stored["data"].values():
            for key in ("eef_pos", "eef_quat", "gripper_qpos"):
                demo[f"obs/robot1_{key}"] = demo[f"obs/robot0_{key}"][()]
    with pytest.raises(EpisodeError, match=r"'actions' has 7 columns, which do not divide among 2 arms"):
        open_source(file).read(0)
    with h5py.File(file, "a") as stored:
        for demo in stored["data"].values():
            both = np.tile(demo["actions"][()], 2)
            del demo["actions"]
            demo["actions"] = both
    assert len(open_source(file)[0].arms) == 2


def test_grippers_of_one_or_six_columns_are_read_with_a_layout(file: Path) -> None:
    six = {"rotation_kind": "quat_xyzw", "gripper": [7, 10], "width": 13}
    for columns, layout, fingers in ((1, "quaternion_xyzw", [0, 0]), (6, six, [0, 1])):
        with h5py.File(file, "a") as stored:
            for index, demo in enumerate(stored["data"].values()):
                key = "obs/robot0_gripper_qpos"
                del demo[key]
                demo[key] = np.repeat(make_episode(index).arms[0].gripper, 3, axis=1)[:, :columns]
        plain, read_so = open_source(file), open_source(file, layout=layout)
        assert "layout" not in plain.identity()["options"]
        with pytest.raises(
            EpisodeError, match=rf"gripper_qpos has {columns} columns, not 2 fingers; say what they are"
        ):
            plain.read(0)
        expected = make_episode(0).arms[0]
        np.testing.assert_allclose(read_so[0].arms[0].quaternion, expected.quaternion, atol=1e-6)
        np.testing.assert_array_equal(read_so[0].arms[0].gripper, expected.gripper[:, fingers])
        assert read_so.identity()["options"]["layout"] == layout
        assert read_so[0].metadata.get("opening_unit") == ("1" if columns == 1 else None)


@pytest.mark.parametrize("layout", ["gap", "quaternion_wxyz", "libero", {"rotation_kind": "quat_wxyz"}])
def test_a_layout_that_contradicts_the_files_names_is_refused(file: Path, layout: object) -> None:
    with pytest.raises(EpisodeError, match=r"xyz and the quaternion xyzw by their names, the layout says .*; give one"):
        open_source(file, layout=layout)


def test_a_layout_of_half_an_arms_columns_makes_no_two_arms_of_one(file: Path) -> None:
    with h5py.File(file, "a") as stored:
        for demo in stored["data"].values():
            gripper = demo.pop("obs/robot0_gripper_qpos")[()]
            demo["obs/robot0_gripper_qpos"] = np.repeat(gripper[:, :1], 11, axis=1)
    message = r"obs/robot0_gripper_qpos has 11 columns, with xyz and quaternion 18 an arm; the layout has 9 columns"
    with pytest.raises(EpisodeError, match=message):
        open_source(file, layout="robomimic").read(0)


def test_low_dimensional_reading_leaves_images_out(file: Path) -> None:
    episode = open_source(file).read(0, images=False)
    assert not episode.images and len(episode.proprio)


def test_filter_keys_select_demonstrations(file: Path) -> None:
    with h5py.File(file, "a") as stored:
        stored["mask/train"] = np.array([b"demo_10", b"demo_2"])
    source = open_source(file, filter_key="train")
    assert [e.metadata["episode_id"] for e in source] == ["demo_2", "demo_10"]
    beyond = f"{len(open_source(file)) - 2} of {len(open_source(file))} demonstrations"
    assert {*source.dropped()} ^ {*open_source(file).dropped()} == {beyond, "mask of the file"}
    with pytest.raises(EpisodeError, match=r"no filter 'mask/valid'.*train"):
        open_source(file, filter_key="valid")
    with h5py.File(file, "a") as stored:
        del stored["data/demo_5"]
    with pytest.raises(EpisodeError, match=r"the demonstrations have .* steps, the attribute 'total' of 'data' says"):
        open_source(file, filter_key="train")


def test_what_is_dropped_is_listed(file: Path) -> None:
    dropped = open_source(file).dropped()
    assert set(dropped) == {"rewards", "dones", "obs/object", "attribute model_file", "the rest of env_args"}
    with h5py.File(file, "a") as stored:
        stored["data/demo_7/notes"] = np.zeros(3)
        stored["data"].attrs["hand"] = stored.attrs["made"] = "today"
        stored["data/demo_0/obs/robot0_base_to_eef_pos"] = np.zeros((20, 3))
        stored["data/demo_0/obs/robot1_gripper_qpos"] = np.zeros((20, 2))
        stored["data/demo_1"].attrs["operator"] = "Ann"
    more = {"notes", "obs/robot0_base_to_eef_pos", "obs/robot1_gripper_qpos", "hand of data", "made of the file"}
    assert {*(source := open_source(file)).dropped()} == {*dropped, *more}
    assert "extra_json <- attributes num_samples, operator, success\n" in source.account()
    assert source[1].metadata["operator"] == "Ann"


def _there(place: str) -> Callable[[h5py.File], Any]:
    """Puts an attribute `odd` to a place of the file, behind links too."""
    return lambda stored: stored[place].attrs.update({"odd": np.zeros(2)})


def _linked(stored: h5py.File) -> None:
    stored.move("data/demo_1/obs/robot0_eef_pos", "kept")
    stored["data/demo_1/obs/robot0_eef_pos"] = h5py.SoftLink("/kept")
    stored["kept"].attrs["odd"] = 1


def _second_filter(stored: h5py.File) -> None:
    stored["mask/train"] = stored["mask/odd"] = [b"demo_1"]
    stored["mask"].attrs["odd"] = stored["mask/train"].attrs["odd"] = 1


def _told_otherwise(stored: h5py.File) -> None:
    stored["data"].attrs["env_args"] = '{"lang": "close it"}'
    for demo in stored["data"].values():
        demo.attrs["language_instruction"] = "open it"


_GROUPS = {"/": "the file", "data": "data", "data/demo_1/obs": "obs", "data/demo_1/next_obs": "next_obs"}
_ARRAYS = ("actions", "dones", "phase", "obs/robot0_eef_pos", "obs/robot0_eef_quat",
           "obs/robot0_gripper_qpos", "obs/agentview_image", "obs/timestamp",
           "next_obs/robot0_eef_pos")  # fmt: skip
_AT = {"dones": "missing_value", "obs/agentview_image": "_FillValue", "phase": "units"}
"""Attributes that are read elsewhere, and arrays of which nobody reads them; those of `dones` are read."""


@pytest.mark.parametrize(
    ("put", "named"),
    [
        *((_there(place), {f"odd of {name}"}) for place, name in _GROUPS.items()),
        *((_there(f"data/demo_1/{name}"), {f"odd of {name}"}) for name in _ARRAYS),
        *((lambda f, name=name, key=key: f[f"data/demo_1/{name}"].attrs.update({key: b"m"}), {f"{key} of {name}"})
          for name, key in _AT.items() if name != "dones"),
        (_there("data/demo_1/obs/beside"), set()),  # which is not taken with all that it says
        (lambda f: f["data/demo_1/dones"].attrs.update(missing_value=7), set()),
        (_there("data/demo_1"), {"attribute odd"}),
        *((lambda f, name=name: f["data/demo_1"].attrs.update({name: [1, 2]}), {f"attribute {name}"})
          for name in ("total", "num_demos", "env_args", "task", "annotator", "units")),
        *((lambda f, name=name: f["data"].attrs.update({name: "odd"}), {f"{name} of data"})
          for name in ("ep_meta", "task", "variant", "layout_version", "annotator", "num_steps", "color_space")),
        *((lambda f, name=name: f["data/demo_1/obs"].attrs.update({name: "odd"}), {f"{name} of obs"})
          for name in ("num_samples", "units", "quaternion_order", "success")),
        *((lambda f, name=name: f.update({name: f["data/demo_1/actions"][()]}), {told}) for name, told in (
            ("odd", "odd of the file"), ("data/demo_1/odd", "odd"), ("data/demo_1/obs/odd", "obs/odd"),
            ("data/demo_1/num_samples/odd", "num_samples"))),
        (lambda f: f["data/demo_1"].update(odd=h5py.SoftLink("/nowhere")), {"odd"}),
        (_linked, {"odd of obs/robot0_eef_pos", "kept of the file"}),
        (_second_filter, {"mask/odd of the file", "odd of mask", "odd of mask/train", "5 of 6 demonstrations"}),
        (lambda f: f["data/demo_1"].attrs.update(ep_meta='{"odd": "%s"}' % ("far " * 60)), {"the rest of ep_meta"}),
        (_told_otherwise, {"lang in env_args"}),
        (lambda f: f["data/demo_1"].attrs.update(operator=b"J\xf6rg"), {"attribute operator"}),
    ],
)  # fmt: skip
def test_what_nobody_reads_is_named_wherever_it_lies(
    put: Callable[[h5py.File], Any], named: set[str], six: Path
) -> None:
    with h5py.File(six, "a") as stored:
        demo = stored["data/demo_1"]
        steps = len(demo["actions"])
        demo.update({"beside": np.zeros(3), "obs/beside": np.zeros(steps), "obs/timestamp": np.arange(steps)})
        demo["next_obs/robot0_eef_pos"] = np.roll(demo["obs/robot0_eef_pos"], -1, axis=0)
        if "phase" not in demo:
            demo["phase"] = [b"a"] * steps
    before = {*open_source(six).dropped()}
    with h5py.File(six, "a") as stored:
        put(stored)
        chosen = {"filter_key": "train"} if "mask" in stored else {}
    source = open_source(six, **chosen)
    assert {*source.dropped()} - before == named
    assert source.read(0 if chosen else 1) and all(name in source.account() for name in named)


def test_language_falls_back_to_the_option(file: Path) -> None:
    with h5py.File(file, "a") as stored:
        for demo in stored["data"].values():
            del demo.attrs["language_instruction"]
        stored["data"].attrs["env_args"] = json.dumps({"env_name": "X"})
    assert open_source(file)[0].language_instruction == ""
    assert open_source(file, language_instruction="stack")[0].language_instruction == "stack"


def test_what_robosuite_writes_of_an_episode_is_its_instruction(pair: Path) -> None:
    plain = open_source(pair).identity()
    with h5py.File(pair, "a") as stored:
        for demo, told in zip(stored["data"].values(), ("lift it", None)):
            demo.attrs["language_instruction"] = " "
            demo.attrs["ep_meta"] = json.dumps({"lang": told} if told else {"layout_id": 3})
    source = open_source(pair, language_instruction="stack")
    assert [episode.language_instruction for episode in source] == ["lift it", "stack"]
    assert source.mapping()["language_instruction"] == "lang in ep_meta or --reader"
    assert source.identity()["instructions"] == "ep_meta" and "instructions" not in plain
    with h5py.File(pair, "a") as stored:
        next(iter(stored["data"].values())).attrs["ep_meta"] = '{"lang": "lift'
    with pytest.raises(EpisodeError, match=r"the attribute 'ep_meta' is no JSON.*; write it again"):
        open_source(pair, language_instruction="stack")


def test_fewer_demonstrations_than_the_file_counts_are_refused(pair: Path) -> None:
    with h5py.File(pair, "a") as stored:
        stored["data"].attrs["num_demos"] = 2
        assert len(open_source(pair)) == 2
        stored["data"].attrs["num_demos"] = 50
    with pytest.raises(EpisodeError, match="2 demonstrations, 'num_demos' of 'data' says 50; get all of it"):
        open_source(pair)


def test_a_source_can_be_sent_to_another_process(file: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(file)))
    assert len(source) == 12 and len(source[11]) == len(make_episode(11))


def test_identity_follows_the_content(file: Path) -> None:
    before = open_source(file).identity()
    assert open_source(file).identity() == before
    with h5py.File(file, "a") as stored:
        stored["data/demo_0/actions"][0, 0] = 0.123
    assert open_source(file).identity() != before


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _foreign(path: Path) -> None:
    with h5py.File(path, "w") as stored:
        stored["trajectories/0"] = np.zeros(3)


def _empty(path: Path) -> None:
    with h5py.File(path, "w") as stored:
        stored.create_group("data")


def _edit(key: str, value: np.ndarray | None):  # type: ignore[no-untyped-def]
    def change(path: Path) -> None:
        with h5py.File(path, "a") as stored:
            demo = stored["data/demo_5"]
            old = demo[key][()]
            del demo[key]
            if value is not None:
                demo[key] = value if value.size else old[:-1]

    return change


def _nan(path: Path) -> None:
    with h5py.File(path, "a") as stored:
        stored["data/demo_5/obs/robot0_eef_pos"][7, 1] = np.nan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncate, "not a complete HDF5 file"),
        (lambda p: p.write_bytes(b"hello"), "not a complete HDF5 file"),
        (_foreign, "no group 'data'.*trajectories"),
        (_empty, "holds no demonstrations"),
        (_edit("obs/robot0_eef_quat", None), "episode demo_5: no 'obs/robot0_eef_quat' .found:.*robot0_eef_pos"),
        (_edit("actions", None), "episode demo_5: no 'actions'"),
        (_edit("actions", np.zeros(0)), "episode demo_5: .* actions, the attribute 'num_samples' says"),
        (_edit("obs/agentview_image", np.zeros(0)), "episode demo_5: .*image"),
        (_edit("obs/robot0_gripper_qpos", np.zeros((3, 2))), "episode demo_5: obs/robot0_gripper_qpos has 3 steps"),
        (_nan, "episode demo_5: 'obs/robot0_eef_pos' is NaN or infinite at step 7, column 1"),
    ],
)
def test_bad_files_are_refused_with_place_and_reason(six: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    spoil(six)
    with pytest.raises(EpisodeError, match=message) as error:
        list(open_source(six))
    assert str(six) in str(error.value)


def test_a_path_that_leaves_a_link_again_is_read_where_it_leads(six: Path, tmp_path: Path) -> None:
    inner = six.parent / "inner"
    inner.mkdir()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(inner)
    assert len(open_source(link / ".." / six.name)) == len(open_source(six))


def test_unknown_kinds_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"kind 'bag' is unknown; choose one of robomimic_hdf5"):
        open_source(tmp_path, kind="bag")
    with pytest.raises(EpisodeError, match="no such file"):
        open_source(tmp_path / "no.hdf5")


def test_a_file_written_by_robomimics_own_scripts_is_read() -> None:
    path = Path(__file__).parents[1] / "data" / "robomimic" / "lift.hdf5"
    source = open_source(path, language_instruction="lift the cube")
    assert [len(e) for e in source] == [14, 17]
    episode = source[1]
    with h5py.File(path) as stored:
        obs = stored["data/demo_1/obs"]
        np.testing.assert_array_equal(episode.images["image_primary"], obs["agentview_image"])
        np.testing.assert_array_equal(episode.images["image_wrist"], obs["robot0_eye_in_hand_image"])
        np.testing.assert_allclose(episode.proprio[:, :3], obs["robot0_eef_pos"], atol=1e-6)
        np.testing.assert_allclose(episode.proprio[:, 3:7], np.roll(obs["robot0_eef_quat"], 1, axis=1), atol=1e-6)
    assert episode.language_instruction == "lift the cube"
    assert "next_obs" not in source.mapping() and "obs/robot0_joint_pos" in source.dropped()
    assert [e.metadata["episode_id"] for e in open_source(path, filter_key="train")] == ["demo_0"]


def _second(stored: h5py.File, key: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """An observation of the second demonstration."""
    value = change(stored[f"data/demo_1/obs/{key}"][()])
    del stored[f"data/demo_1/obs/{key}"]
    stored[f"data/demo_1/obs/{key}"] = value


def _third_arm(stored: h5py.File) -> None:
    for key in ("eef_pos", "eef_quat", "gripper_qpos"):
        stored[f"data/demo_1/obs/robot2_{key}"] = stored[f"data/demo_1/obs/robot0_{key}"][()]


def _second_arm_without_a_position(stored: h5py.File) -> None:
    stored["data/demo_1/obs/robot1_eef_quat"] = stored["data/demo_1/obs/robot0_eef_quat"][()]


def _second_camera(stored: h5py.File) -> None:
    stored["data/demo_1/obs/image_primary"] = np.zeros((20, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_third_arm, r"no 'obs/robot1_eef_pos' \(found: .*robot2_eef_pos"),
        (_second_arm_without_a_position, r"no 'obs/robot1_eef_pos' \(found: .*robot1_eef_quat"),
        (_second_camera, r"obs/image_primary, agentview_image, .*: image_primary is there twice; say with image_keys"),
        (lambda f: _second(f, "robot0_eef_quat", lambda q: q * 2), "the state.s quaternion, .* arm 0 on, has length 2"),
        (lambda f: _second(f, "robot0_eef_quat", lambda q: q * 0), "the state.s quaternion, .* has length 0 at step 0"),
        (lambda f: _second(f, "robot0_eef_pos", lambda p: p * 0 + 1e7), r"proprio is 1e\+07 at step 0, column 0"),
        (lambda f: f["data/demo_1"].update(phase=[b"\xff"] * 20), "'phase': 'utf-8' codec .*; write it again as UTF-8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("images", [True, False])
def test_what_no_robot_has_is_named(pair: Path, change: Callable[[h5py.File], Any], message: str, images: bool) -> None:
    with h5py.File(pair, "a") as stored:
        stored["data/demo_1"].pop("phase", None)
        change(stored)
    with pytest.raises(EpisodeError, match=f"demo_1: {message}"):
        open_source(pair).read(1, images=images)


def test_a_filter_whose_name_is_no_text_does_not_hide_the_others(file: Path) -> None:
    with h5py.File(file, "a") as stored:
        stored["mask/train"] = [b"demo_1"]
        stored["mask"].create_dataset(b"\xff", data=[b"demo_1"])
    with pytest.raises(EpisodeError, match=r"no filter 'mask/valid' \(filters: .*train"):
        open_source(file, filter_key="valid")


def _put(key: str, value: Any) -> Callable[[h5py.Group], None]:
    def change(demo: h5py.Group) -> None:
        demo.pop(key, None)
        demo[key] = value(len(demo["actions"])) if callable(value) else value

    return change


def _ended(*places: int) -> Callable[[int], np.ndarray]:
    """`dones` of so many steps, true at these."""
    return lambda steps: np.isin(np.arange(steps), np.array(places) % steps).astype(int)


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((_put(key, np.zeros(5)), f"{key} has 5 steps, the actions \\d+; cut them to the same steps or drop the epis")
          for key in ("dones", "rewards", "states", "executed_actions", "phase_switch", "obs/object", "next_obs/eef")),
        (_put("states", lambda n: np.zeros((n + 2, 3))), r"states has \d+ steps, the actions \d+"),
        (_put("dones", _ended(4)), "'dones' is true at step 4 of 20 and not at the last; cut the episode or correct"),
        (_put("dones", lambda n: _ended(4)(n)[:, None]), "'dones' is true at step 4 of 20"),
        (_put("dones", lambda n: np.full(n, np.nan)), "'dones' holds NaN or infinity; correct it"),
        (_put("dones", _ended(-1)), None),
        (_put("dones", _ended(-3, -2, -1)), None),
        (_put("dones", _ended(4, -1)), None),  # a success that was lost and reached again
        (_put("states", lambda n: np.zeros((n + 1, 3))), None),
        (_put("rewards", 1.0), None),
        (_put("src_demo_inds", np.zeros(3)), None),
        (_put("obs/datagen_info/poses", np.zeros((3, 4, 4))), None),
        (_put("initial_state/pose", np.zeros((1, 7))), None),
    ],
)  # fmt: skip
def test_arrays_of_one_row_per_step_have_the_steps_of_the_actions(
    pair: Path, change: Callable[[h5py.Group], None], message: str | None, images: bool
) -> None:
    with h5py.File(pair, "a") as stored:
        change(stored["data/demo_1"])
    if message is None:
        assert len(open_source(pair).read(1, images=images))
    else:
        with pytest.raises(EpisodeError, match=f"{pair}, episode demo_1: {message}"):
            open_source(pair).read(1, images=images)


@pytest.mark.parametrize(
    "said",
    ["not JSON", "{'env_name': 'Lift'}", "[" * 60_000, 5, None, "", '{"env_name": "Lift"}', '{"lang": null}'],
)
def test_what_is_said_of_the_simulator_is_json(pair: Path, said: Any) -> None:
    with h5py.File(pair, "a") as stored:
        del stored["data"].attrs["env_args"]
        if said is not None:
            stored["data"].attrs["env_args"] = said
    if said in (None, "", '{"env_name": "Lift"}', '{"lang": null}'):
        assert len(open_source(pair)) == 2
    else:
        with pytest.raises(
            EpisodeError, match=f"{pair}, data: the attribute 'env_args' is no JSON: .*; write it again$"
        ):
            open_source(pair)


def test_a_file_that_its_disk_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(0, annotated=False)])
    monkeypatch.setattr("hashlib.file_digest", broken)
    with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
        content_digest(path)


def test_a_source_stays_as_it_was_opened_whatever_becomes_of_its_options(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "d.hdf5", [make_episode(0)])
    keys = {"agentview_image": "image_primary"}
    opened = open_source(path, "robomimic_hdf5", image_keys=keys)
    before = opened.identity()
    keys["agentview_image"] = "image_wrist"
    assert [*opened.read(0).images] == ["image_primary"] and opened.identity() == before


def test_a_layout_is_kept_as_it_was_given(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", proprio=np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 0, 0]), (4, 1)))
    layout = {"gripper": [7, 8]}
    opened = open_source(tmp_path, "npz", layout=layout)
    layout["gripper"][0] = 3
    assert opened.options["layout"] == {"gripper": [7, 8]}
