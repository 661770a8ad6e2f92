"""Recordings that are two in one, one under two names, or in another unit or order than is read, are refused."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_demos import make_episode, write_robomimic
from test_lerobot_damage import copied, described

from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source
from gap_vla.demos.layout import StateLayout

STEPS = 20
ENDS = np.isin(np.arange(STEPS), [9, 19])


def arrays(**more: Any) -> dict[str, Any]:
    episode = make_episode(0, steps=STEPS)
    return {**episode.images, "proprio": episode.proprio, "action": episode.action, **more}


def of_npz(folder: Path, **more: Any) -> Any:
    np.savez(folder / "demo.npz", **arrays(**more))
    return open_source(folder, "npz")


def of_pickle(folder: Path, **more: Any) -> Any:
    (folder / "demo.pkl").write_bytes(pickle.dumps(arrays(**more)))
    cameras = {key: key for key in make_episode(0).images}
    return open_source(folder, "pickle", state_key="proprio", image_keys=cameras)


@pytest.mark.parametrize("opened", [of_npz, of_pickle])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"is_last": ENDS},
            "is_last is true at steps .*9, 19.* of 20, it must be at 19 only; make a recording of each",
        ),
        ({"is_first": ~ENDS}, "is_first is true at steps .* it must be at 0 only"),
        ({"is_terminal": ENDS}, "is_terminal is true at steps"),
        ({"timestamp": np.arange(STEPS) % 10 / 10}, "timestamp"),
        ({"timestamps": np.arange(STEPS) % 10 / 10}, r"'timestamps' is 0 at step 10, not after 0\.9; write it"),
        ({"timestamp": np.arange(STEPS)[:, None] % 10 / 10}, r"'timestamp' is 0 at step 10, not after 0\.9; write it"),
        (
            {"dones": np.arange(STEPS) == 9},
            "'dones' is true at step 9 of 20 and not at the last; cut the episode or",
        ),
        ({"dones": ENDS}, "'dones' is true at step 9 of 20 and not after it; make two of it"),
        ({"terminals": np.arange(STEPS) == 9}, "'terminals' is true at step 9 of 20 and not at the last; cut the epi"),
        ({"episode_index": np.arange(STEPS) // 10}, "episode_index changes at step 10 of 20; make a recording of each"),
        ({"Is_First": ~ENDS}, "demo.*: is_first is true at steps"),
        ({"done": np.full(STEPS, np.nan)}, "'done' holds NaN or infinity; correct it"),
        ({"reward": np.zeros(STEPS - 1)}, "reward"),
        ({"is_last": 0 * ENDS}, "is_last is true at steps .*; .*correct it, or leave it out"),
        ({"is_last": np.array(["False"] * STEPS)}, "'is_last' holds <U5; write true and false, or leave it out"),
    ],
)
def test_two_recordings_in_one_file_are_refused(opened: Any, more: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=message):
        opened(tmp_path, **more).read(0)


def test_a_list_in_a_pickle_is_looked_at_as_an_array_is(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="'reward' has 19 steps, the actions 20"):
        of_pickle(tmp_path, reward=[0.0] * (STEPS - 1)).read(0)


@pytest.mark.parametrize("opened", [of_npz, of_pickle])
def test_flags_and_times_of_one_recording_are_read_over(opened: Any, tmp_path: Path) -> None:
    last = np.arange(STEPS) == STEPS - 1
    more = {"is_last": last, "is_first": last[::-1], "is_terminal": 0 * last, "reward": 1.0 * last}
    assert len(opened(tmp_path, **more, timestamp=np.arange(STEPS) / 10).read(0)) == STEPS


@pytest.mark.parametrize("opened", [of_npz, of_pickle])
def test_an_episode_keeps_its_name_whatever_else_its_recording_holds(opened: Any, tmp_path: Path) -> None:
    source = opened(tmp_path, joint=np.zeros((STEPS, 7)), force=np.zeros(STEPS), language_instruction=np.array("x"))
    for images in (True, False):
        assert source.read(0, images=images).metadata["episode_id"] == "demo"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("is_first", np.arange(STEPS) == 9, r"demo_0: is_first is true at steps \[9\] of 20, it must be at 0 only"),
        ("is_last", ENDS, "demo_0: is_last is true at steps .*9, 19"),
        ("obs/is_first", ENDS, "demo_0: is_first is true at steps .*9, 19"),
        ("Is_Last", ENDS, "demo_0: is_last is true at steps .*9, 19"),
        ("episode_index", np.arange(STEPS) // 10, "demo_0: episode_index changes at step 10 of 20; make a recording"),
        ("timestamp", np.arange(STEPS - 4) / 10, "demo_0: timestamp has 16 steps, the actions 20; cut"),
        ("reward", np.zeros(STEPS - 4), "demo_0: reward has 16 steps, the actions 20; cut"),
        ("done", np.arange(STEPS) == 9, "demo_0: 'done' is true at step 9 of 20 and not at the last; cut"),
        ("terminals", np.arange(STEPS) == 9, "demo_0: 'terminals' is true at step 9 of 20 and not at the last; cut"),
        ("success", np.zeros(STEPS, bool), "demo_0: 'success' is no attribute of it and not read; store it as 'succ"),
        ("Success", np.array(False), "demo_0: 'Success' is no attribute of it and not read; store it as 'succ"),
    ],
)
def test_an_hdf5_demonstration_says_of_its_ends_what_readers_read(
    name: str, value: np.ndarray, message: str, tmp_path: Path
) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(0, steps=STEPS, annotated=False)])
    with h5py.File(path, "a") as file:
        if name.lower() == "success":
            del file["data/demo_0"].attrs["success"]
        file[f"data/demo_0/{name}"] = value
    with pytest.raises(EpisodeError, match=message):
        open_source(path).read(0, images=False)
    with pytest.raises(EpisodeError, match=message):
        open_source(path).look()


@pytest.mark.parametrize("name", ["Success", "Language_Instruction"])
def test_an_attribute_in_other_letters_is_asked_about(name: str, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(0, steps=STEPS, annotated=False)])
    with h5py.File(path, "a") as file:
        attributes = file["data/demo_0"].attrs
        attributes[name] = attributes[name.lower()]
        assert open_source(path)[0].success  # the one that is read is there too
        del attributes[name.lower()]
    with pytest.raises(
        EpisodeError, match=f"demo_0: attributes: '{name}' is not read; if it is '{name.lower()}', call"
    ):
        open_source(path)[0]


@pytest.mark.parametrize(
    "name", ["data/demo_0/Phase", "data/demo_0/obs/Image_Wrist", "data/demo_0/obs/Robot1_eef_pos", "data/Success"]
)
def test_a_known_name_in_other_letters_in_an_hdf5_file_is_asked_about(name: str, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(0, steps=STEPS, annotated=False)])
    with h5py.File(path, "a") as file:
        del file["data/demo_0/phase"]
        file["data"].attrs["Success" if name == "data/Success" else "other"] = True
        if name != "data/Success":
            file[name] = np.zeros((STEPS, 3))
    word = name.rpartition("/")[2]
    with pytest.raises(EpisodeError, match=f"'{word}' is not read; if it is '{word.lower()}', call it so"):
        open_source(path)


@pytest.mark.parametrize("fact", ["success", "language_instruction"])
def test_what_the_whole_file_says_of_demonstrations_is_asked_about(fact: str, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(0, steps=STEPS, annotated=False)])
    with h5py.File(path, "a") as file:
        said = file.attrs[fact] = file["data/demo_0"].attrs[fact]
        assert len(open_source(path)) == 1  # every demonstration says it too
        del file["data/demo_0"].attrs[fact]
    with pytest.raises(
        EpisodeError, match=f"demo_0: '{fact}' is no attribute of it and not read; store it as '{fact}'"
    ):
        open_source(path)
    with h5py.File(path, "a") as file:
        file["data"].attrs[fact] = said
    assert len(open_source(path)) == 1


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *((name, name.lower()) for name in ("Success", "Language_Instruction", "Phase", "Image_Primary")),
        ("is_success", "success"),
        ("languageInstruction", "language_instruction"),
        ("image-primary", "image_primary"),
    ],
)
def test_a_known_name_in_other_letters_is_asked_about(name: str, known: str, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=f"'{name}' is not read; if it is '{known}', call it so"):
        of_npz(tmp_path, **{name: np.array("x")}).read(0)


def test_of_two_names_that_differ_in_letters_alone_the_other_is_told(tmp_path: Path) -> None:
    source = of_npz(tmp_path, Action=np.zeros((STEPS, 7)), position=np.zeros((STEPS, 3)))
    assert source.account().splitlines()[1] == "  not taken: Action, position"


def test_times_of_an_hdf5_demonstration_rise(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(0, steps=STEPS, annotated=False)])
    text = np.array([b"2026-01-01T00:00:%02d" % step for step in range(STEPS)])
    for times, fits in ((np.arange(STEPS) / 20, True), (text, True), (np.arange(STEPS) % 10 / 20, False)):
        with h5py.File(path, "a") as file:
            if "timestamp" in file["data/demo_0/obs"]:
                del file["data/demo_0/obs/timestamp"]
            file["data/demo_0/obs/timestamp"] = times
        if fits:
            assert len(open_source(path)[0]) == STEPS
            continue
        with pytest.raises(
            EpisodeError, match=r"episode demo_0: 'obs/timestamp' is 0 at step 10, not after 0\.45; write it"
        ):
            open_source(path)[0]


@pytest.mark.parametrize("soft", [True, False])
def test_one_demonstration_under_two_names_is_refused(soft: bool, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(i, annotated=False) for i in range(3)])
    with h5py.File(path, "a") as file:
        del file["data"].attrs["total"]
        file["data/demo_3"] = h5py.SoftLink("/data/demo_0") if soft else file["data/demo_0"]
    with pytest.raises(EpisodeError, match="data/demo_3 is data/demo_0 by another name; remove one of the links"):
        open_source(path)


@pytest.mark.parametrize("part", ["obs", "actions"])
def test_a_part_of_one_demonstration_in_another_is_refused(part: str, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(i, annotated=False) for i in range(2)])
    with h5py.File(path, "a") as file:
        del file[f"data/demo_1/{part}"]
        file[f"data/demo_1/{part}"] = file[f"data/demo_0/{part}"]
    with pytest.raises(EpisodeError, match=f"data/demo_1/{part} is data/demo_0/{part} by another name; remove one"):
        open_source(path)


def test_what_data_says_of_success_is_of_all_that_say_nothing(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(i, annotated=False) for i in range(2)])
    with h5py.File(path, "a") as file:
        file["data"].attrs["success"] = False
        file["data/demo_0"].attrs["success"] = True
        del file["data/demo_1"].attrs["success"]
    source = open_source(path)
    assert [episode.success for episode in source] == [True, False]
    assert source.mapping()["success"] == "success"
    with h5py.File(path, "a") as file:
        del file["data"].attrs["success"]
    said = "success (stated in 1 of 2, the others count as true)"
    assert open_source(path).mapping()["success"] == said


def test_an_episode_that_is_done_before_its_end_is_refused(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    file = sorted((root / "data").rglob("*.parquet"))[0]
    cells = pq.ParquetFile(file).read().to_pydict()
    for done, fits in (([11], True), (range(9, 12), True), ([3], False), ([3, 11], False)):
        flags = [step in done for step in range(12)]
        pq.write_table(pa.table({**cells, "next.done": flags}), file)
        described(root, lambda info: info["features"].update({"next.done": {"dtype": "bool", "shape": [1]}}))
        if fits:
            assert len(open_source(root, "lerobot").read(0, images=False)) == 12
            continue
        with pytest.raises(
            EpisodeError, match=r"'next\.done' is true at step 3 of 12 and not (after it; make two|at the la)"
        ):
            open_source(root, "lerobot").read(0, images=False)
    shutil.rmtree(root)


@pytest.mark.parametrize("flags", [[[False, True]] * 12, [[True, False], *[[False]] * 11]])
def test_what_is_done_is_one_truth_value_per_step(flags: list[list[bool]], tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    file = sorted((root / "data").rglob("*.parquet"))[0]
    pq.write_table(pa.table({**pq.ParquetFile(file).read().to_pydict(), "next.done": flags}), file)
    with pytest.raises(
        EpisodeError, match=r"episode 0: 'next\.done' is no truth value per step: .*; download it again"
    ):
        open_source(root, "lerobot").read(0, images=False)


def test_degrees_are_not_taken_for_radians() -> None:
    state = np.zeros((10, 7))
    state[:, 3:6] = np.linspace(-170, 170, 10)[:, None]
    bridge = StateLayout.of("bridge")
    with pytest.raises(
        EpisodeError,
        match=r"here: the state's euler_xyz reaches 170 at step .*, column . of arm 0; give radians",
    ):
        bridge.to_proprio(state, "here")
    assert np.isfinite(bridge.to_proprio(np.deg2rad(state), "here")).all()


@pytest.mark.parametrize(
    "names",
    [
        ["y", "x", "z", "qw", "qx", "qy", "qz", "finger_1", "finger_2"],
        ["gripper", "x", "y", "qw", "qx", "qy", "qz", "z", "finger_2"],
        ["left_finger", "eef_y", "eef_z", "qw", "qx", "qy", "qz", "finger_1", "finger_2"],
        [f"joint_{number}.pos" for number in range(9)],
        ["left_waist", "left_shoulder", "left_elbow", "forearm_roll", "wrist_angle", "wrist_rotate", *"abc"],
        [f"q{number}" for number in range(1, 10)],
        ["vx", "vy", "vz", "qw", "qx", "qy", "qz", "finger_1", "finger_2"],
    ],
)
def test_columns_with_the_names_of_others_are_no_positions(names: list[str]) -> None:
    with pytest.raises(EpisodeError, match=f"the layout takes columns {', '.join(names[:3])} as x, y, z; name the col"):
        StateLayout.of("gap").require_names(names, "here")


def test_columns_of_another_arm_are_not_read_in_the_place_of_its_neighbours() -> None:
    arms = [f"{side}_{name}" for side in ("left", "right") for name in ("x", "y", "z", "roll", "pitch", "yaw", "grip")]
    own = StateLayout.of("bridge")
    own.require_names(arms, "here")
    together = [name for name in arms if "grip" not in name] + ["left_gripper", "right_gripper"]
    with pytest.raises(EpisodeError, match="here: the layout takes columns right_y, right_z, right_roll as x, y, z; n"):
        own.require_names(together, "here")


@pytest.mark.parametrize("layout", ["bridge", "bridge_padded", "libero"])
def test_turns_are_taken_in_the_order_of_their_names(layout: str) -> None:
    own = StateLayout.of(layout)
    rest = ["opening", "gripper"][-(own.width - 6) :]
    for turns in (["roll", "pitch", "yaw"], ["rx", "ry", "rz"], ["gripper_roll", "gripper_pitch", "gripper_yaw"]):
        own.require_names([*"xyz", *turns, *rest], "here")
    own.require_names([*"xyz", "forearm_roll", "wrist_angle", "wrist_rotate", *rest], "here")
    for wrong in (["yaw", "pitch", "roll"], ["gripper", "roll", "pitch"], ["ry", "rx", "rz"]):
        with pytest.raises(
            EpisodeError, match=f"the layout takes columns {', '.join(wrong)} as roll, pitch, yaw .*; na"
        ):
            own.require_names([*"xyz", *wrong, *rest], "here")
    with pytest.raises(EpisodeError, match="the layout takes columns roll, pitch, yaw as x, y, z; name the columns"):
        own.require_names(["roll", "pitch", "yaw", *"xyz", *rest], "here")


@pytest.mark.parametrize(
    "first", [["x", "y", "z"], ["gripper_x", "gripper_y", "gripper_z"], ["eef_x", "eef_y", "eef_z"], ["a", "b", "c"]]
)
def test_columns_with_their_own_names_or_none_that_tell_are(first: list[str]) -> None:
    StateLayout.of("gap").require_names([*first, "qw", "qx", "qy", "qz", "finger_1", "finger_2"], "here")


def test_an_array_of_joints_holds_no_positions(tmp_path: Path) -> None:
    np.savez(tmp_path / "demo.npz", joint_positions=np.zeros((STEPS, 7)), action=np.zeros((STEPS, 7)))
    source = open_source(tmp_path, "npz", state_key="joint_positions", layout="bridge")
    with pytest.raises(
        EpisodeError, match=r"demo\.npz: the layout takes columns joint_positions as x, y, z; name the c"
    ):
        source.read(0)


def test_a_link_to_an_npz_that_is_not_there_and_an_encrypted_one_are_said_to_be_that(tmp_path: Path) -> None:
    of_npz(tmp_path)
    file = tmp_path / "demo.npz"
    whole = file.read_bytes()
    for head, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # as an archiver with a password sets it
        whole = re.sub(re.escape(head) + b"." * (flags - 4) + b".", lambda m: m[0][:-1] + b"\1", whole, flags=re.DOTALL)
    file.write_bytes(whole)
    with pytest.raises(EpisodeError, match=r"demo\.npz: its arrays are encrypted; write it again without a password"):
        open_source(tmp_path, "npz").read(0)
    file.unlink()
    file.symlink_to("/mnt/away/demo.npz")
    with pytest.raises(EpisodeError, match=r"demo\.npz: a link to /mnt/away/demo\.npz, which is not there; mount or"):
        open_source(tmp_path, "npz").read(0)


def test_npz_files_that_were_put_together_are_refused(tmp_path: Path) -> None:
    of_npz(tmp_path)
    file = tmp_path / "demo.npz"
    one = file.read_bytes()
    file.write_bytes(2 * one)
    with pytest.raises(EpisodeError, match=rf"{len(one):,} bytes before its first array, as of files that were put"):
        open_source(tmp_path, "npz").read(0)
