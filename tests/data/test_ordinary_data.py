"""Public data as people have them go through the commands; each case retells a public thread, which is its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gap_vla.cli.data import annotate, build_dataset, check_dataset, show_episode
from gap_vla.cli.training import train_small
from gap_vla.demos import Fields, open_source
from tests.helpers import layouts
from tests.helpers.demonstrations import write_arrays
from tests.helpers.layouts import EVERY, SWITCHES

FRONT = "observation.images.front"
ARMS = "joints:6 gripper_01 | joints:6 gripper_01"


def case(name: str, write: Callable[[Path], Path], expected: Any, **fields: Any) -> Any:
    """Somebody's data, how they are named, and what is expected of them."""
    return pytest.param(write, fields, expected, id=name)


square = {"env_name": "Square", "type": 1, "env_kwargs": {}}
has_image = {"has_image_0": True, "has_image_1": lambda index: bool(index % 2)}
liberos = layouts.hdf5(layouts.libero, **layouts.LIBERO_SAYS)
position_alone = layouts.lerobot(lambda one: {"observation.state": one.position, "action": one.position}, {})
end_effector = layouts.lerobot(layouts.end_effector, layouts.EE, [FRONT], files=[0, 0, 1, 1])
liberos_columns = layouts.lerobot(layouts.libero_columns, layouts.LIBERO_NAMES, version="v2.1")
droids_columns = layouts.lerobot(layouts.droid_columns, layouts.DROID_NAMES, version="v2.1")
bridge = layouts.rlds("bridge_dataset", layouts.bridge, **has_image)
so101_names = {"observation.state": layouts.SO101, "action": layouts.SO101}
aloha_names = {"observation.state": layouts.ALOHA, "action": layouts.ALOHA}

POSES = [
    case("robomimic#116", layouts.hdf5(layouts.robosuite, env_args=square), "position quat_wxyz gripper:2"),
    case("diffusion_policy#70", layouts.hdf5(layouts.robosuite), "position quat_wxyz gripper:2", action="actions_abs"),
    case("robosuite#441", layouts.hdf5(layouts.wipe), "position quat_wxyz"),
    case("LIBERO#26", liberos, "position rotvec gripper:2"),
    case(
        "X-VLA#25",
        liberos,
        "gripper:2 position quat_xyzw",
        state="robot_states",
        columns="gripper:2 position quat_xyzw",
    ),
    case("IsaacLab#2739", layouts.hdf5(layouts.isaac_lab), "position quat_wxyz gripper:2"),
    case("IsaacLab#4644", layouts.hdf5(layouts.isaac_lab_suction), "position quat_wxyz", layout="isaac_lab"),
    case("lerobot#2751", end_effector, "position rotvec gripper_01"),
    case("lerobot#2364", position_alone, "position", columns="position"),
    case("InternVLA-M1#10", liberos_columns, "position rotvec gripper:2", layout="libero"),
    case("openpi#775", droids_columns, "position euler_xyz gripper_01", layout="droid"),
    case("octo#12", bridge, "position euler_xyz gripper_01", layout="bridge"),
    case(
        "rlds_dataset_builder#6",
        layouts.rlds("fractal", layouts.fractal),
        "position quat_xyzw gripper_01",
        layout="fractal",
    ),
    case("droid#12", layouts.rlds("droid", layouts.droid), "position euler_xyz gripper_01", layout="droid"),
    case(
        "arrays",
        layouts.named_arrays,
        "position quat_xyzw gripper_01",
        state="tcp_pose+jaw",
        action="cmd",
        images={"image_primary": "rgb"},
        columns="position quat_xyzw gripper_01",
        action_columns="position rotvec gripper_01",
        instruction="text=pick up the bowl",
    ),
]
JOINTS = [
    case("lerobot#1462", layouts.lerobot(layouts.so101_joints, so101_names, [FRONT]), "joints_deg:5 gripper_01"),
    case("octo#42", layouts.lerobot(layouts.aloha_joints, aloha_names), ARMS),
    case("mobile-aloha#10", layouts.aloha_hdf5, ARMS, layout="aloha", robot="none"),
    case("lerobot#390", layouts.lerobot(layouts.droid_columns, layouts.DROID_NAMES), "joints:7 gripper_01"),
    case("ManiSkill#1174", layouts.lerobot(layouts.franka_joints, {}), None),
    case("open_x_embodiment#98", layouts.proprio_arrays, None),
]
ROBOTS = [
    case(
        "lerobot#1462",
        layouts.lerobot(layouts.so101_joints, so101_names, [FRONT], robot_type="so101_follower"),
        "joints of so101 (5 joints, degrees), tool gripper_frame",
    ),
    case(
        "ManiSkill#1174",
        layouts.lerobot(layouts.franka_joints, {}),
        "joints of panda (7 joints, rad), tool flange",
        columns="joints:7 gripper:2",
        robot="panda",
        tool="flange",
    ),
    case("mobile-aloha#10", layouts.aloha_hdf5, "joints of viperx (6 joints, rad)", layout="aloha"),
]


def as_options(fields: dict[str, Any]) -> list[str]:
    """Fields as options of a command."""
    cameras = [f"--image={camera}={name}" for camera, name in fields.get("images", {}).items()]
    return cameras + [f"--{name.replace('_', '-')}={text}" for name, text in fields.items() if name != "images"]


def require_switches_found(episodes: Sequence[Any], others: bool = False) -> None:
    """Most switches are found within four steps, and unless there are others, most change points are these."""
    near = [abs(np.flatnonzero(one.change_point)[:, None] - SWITCHES) <= 4 for one in episodes]
    assert np.mean([one.any(0) for one in near]) >= 0.8
    assert others or np.mean(np.concatenate([one.any(1) for one in near])) >= 0.8


@pytest.mark.parametrize(("write", "fields", "columns"), POSES)
def test_a_public_layout_with_a_pose_is_checked_and_gets_its_rho(
    tmp_path: Path, capsys: Any, write: Callable[[Path], Path], fields: dict[str, Any], columns: str
) -> None:
    path = write(tmp_path)
    assert str(open_source(path, Fields(**fields)).columns) == columns
    check = [str(path), "--out", str(tmp_path / "check"), "--show", "0", "--strict", *as_options(fields)]
    assert not check_dataset(check), capsys.readouterr().out
    copy = path.parent / "1.1.0" if path.name == "1.0.0" else tmp_path / f"copy{path.suffix}"
    assert not annotate([str(path), "--out", str(copy), "--method", "gaussian", *as_options(fields)])
    require_switches_found(open_source(copy, Fields(**fields)))


@pytest.mark.parametrize(("write", "fields", "columns"), JOINTS)
def test_joints_are_checked_and_get_their_rho_once_they_are_described(
    tmp_path: Path, capsys: Any, write: Callable[[Path], Path], fields: dict[str, Any], columns: str | None
) -> None:
    path = write(tmp_path)
    source = open_source(path, Fields(**fields))
    assert source.columns == columns or str(source.columns) == columns
    assert not check_dataset([str(path), "--out", str(tmp_path / "check"), "--show", "0", *as_options(fields)])
    assert not show_episode([str(path), "--out", str(tmp_path / "episode.html"), *as_options(fields)])
    call = [str(path), "--name", "joints", "--data-dir", str(tmp_path / "rlds"), *as_options(fields)]
    capsys.readouterr()
    if columns is None:
        assert build_dataset(call) == 2
        assert "--columns" in capsys.readouterr().err
    else:
        assert not build_dataset([*call, "--method", "gaussian"])
        require_switches_found(open_source(tmp_path / "rlds/joints/1.0.0"), others=" | " in columns)
    assert not build_dataset([*call, "--method", "none", "--overwrite"])
    written = open_source(tmp_path / "rlds/joints/1.0.0")
    assert len(written) == len(EVERY) and written.columns == source.columns and written[0].rho is None


@pytest.mark.parametrize(("write", "fields", "said"), ROBOTS)
def test_joints_of_a_known_robot_get_their_rho(
    tmp_path: Path, capsys: Any, write: Callable[[Path], Path], fields: dict[str, Any], said: str
) -> None:
    path, how = write(tmp_path), ["--method", "gaussian", *as_options(fields)]
    assert not build_dataset([str(path), "--name", "joints", "--data-dir", str(tmp_path / "rlds"), *how])
    assert said in capsys.readouterr().out
    built = open_source(tmp_path / "rlds/joints/1.0.0")
    require_switches_found(built, others="aloha" in fields.values())  # the other arm moves backwards
    source = open_source(path, Fields(**fields))
    assert built.columns == source.columns  # what a policy sees stays joints
    np.testing.assert_array_equal(built[0].proprio, next(e for e in source if len(e) == len(built[0])).proprio)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        pytest.param(JOINTS[0].values[0], ["demos.path={}", "phases.method=none"], id="openvla-oft#152"),
        pytest.param(bridge, ["data.rlds={}", "data.fields.layout=bridge"], id="openvla-oft#148"),
    ],
)
def test_data_of_others_train_in_one_command(tmp_path: Path, write: Callable[[Path], Path], said: list[str]) -> None:
    path = write(tmp_path)
    words = ["task=tidy up", "method=concat", "train.steps=2", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    words += [one.format(path) for one in said]
    call = ["--config", "finetune_configs/small_threading.py:debug", *(f"--config.{one}" for one in words)]
    assert not train_small([*call, "--run-name", "own"])
    assert (tmp_path / "runs/tidy up/own/summary.json").exists()


def test_short_and_still_recordings_spoil_nothing(tmp_path: Path, capsys: Any) -> None:
    """ruptures#272, #188: teleoperation gives false starts of a few steps, and recordings in which nothing moves."""
    demos = [layouts.robosuite(one) for one in EVERY]
    demos += [{name: values[:steps] for name, values in demos[0].items()} for steps in (1, 2, 3, 6)]
    demos += [{name: values[:1].repeat(40, 0) for name, values in demos[0].items()}]
    path, copy = write_arrays(tmp_path / "demos.hdf5", demos), tmp_path / "copy.hdf5"
    assert not annotate([str(path), "--out", str(copy), "--method", "gaussian"])
    labelled = list(open_source(copy))
    require_switches_found(labelled[: len(EVERY)])
    assert not labelled[-1].change_point[1:].any()
    assert not check_dataset([str(path), "--out", str(tmp_path / "check"), "--show", "0"])
    asked = ["--method", "gaussian", "--option", "n_change_points=5"]
    assert annotate([str(path), "--out", str(tmp_path / "asked.hdf5"), *asked]) == 2
    assert "demo_4" in capsys.readouterr().err


def test_a_bad_episode_is_named_and_can_be_left_out(tmp_path: Path, capsys: Any) -> None:
    """lerobot#1875: one recording of many is broken."""
    demos = [layouts.robosuite(one) for one in EVERY]
    demos[2] = {**demos[2], "obs/robot0_eef_pos": np.full((len(EVERY[2]), 3), np.nan)}
    path, call = write_arrays(tmp_path / "demos.hdf5", demos), ["--method", "gaussian"]
    assert annotate([str(path), "--out", str(tmp_path / "a.hdf5"), *call]) == 2
    assert re.search("demo_2.*--episodes", capsys.readouterr().err)
    assert not annotate([str(path), "--out", str(tmp_path / "a.hdf5"), *call, "--episodes", "0:2,3"])
    assert [one.rho is None for one in open_source(tmp_path / "a.hdf5", Fields(episodes="0:2,3"))] == [False] * 3


def test_episodes_that_were_not_annotated_have_no_rho(tmp_path: Path) -> None:
    """lerobot#2364: a part of a dataset is annotated, in tables that hold the other part too."""
    path = layouts.lerobot(layouts.end_effector, layouts.EE)(tmp_path)
    assert not annotate([str(path), "--out", str(tmp_path / "out"), "--method", "gaussian", "--episodes", "1:"])
    assert [one.rho is None for one in open_source(tmp_path / "out")] == [True, False, False, False]


def test_stale_numbers_of_an_old_lerobot_dataset_are_not_looked_at(tmp_path: Path) -> None:
    """lerobot#933, #1875: v2.1 tables whose episode, index and times are those of another dataset."""
    import pyarrow.parquet as pq

    path = layouts.lerobot(layouts.end_effector, layouts.EE, [FRONT], version="v2.1")(tmp_path)
    for file in path.glob("data/**/*.parquet"):
        table = pq.read_table(file)
        for name in ("index", "episode_index", "timestamp", "frame_index"):
            table = table.set_column(table.schema.get_field_index(name), name, [table[name].to_numpy() + 300])
        pq.write_table(table, file)
    for found, one in zip(open_source(path), EVERY):
        np.testing.assert_allclose(found.arms[0].position, one.position, atol=1e-6)
        assert found.images["image_primary"].shape == one.frames.shape


def test_the_account_says_a_line_a_field_and_counts_the_others(tmp_path: Path) -> None:
    """LIBERO#26: of thirteen arrays, those that are read are named, and the others counted."""
    lines = open_source(layouts.hdf5(layouts.libero, **layouts.LIBERO_SAYS)(tmp_path)).account().splitlines()
    named = ["image_primary", "image_wrist", "proprio", "action", "language_instruction"]
    assert [line.split()[0] for line in lines[1:-1]] == named
    assert lines[-1].split()[0] == "4"


def test_demonstrations_may_lie_at_the_root_of_a_file(tmp_path: Path) -> None:
    """IsaacLab#4644: recorders of one's own leave the group `data` out."""
    with h5py.File(layouts.hdf5(layouts.isaac_lab)(tmp_path), "r+") as file:
        for name in list(file["data"]):
            file.move(f"data/{name}", name)
        del file["data"]
    assert len(open_source(tmp_path / "demos.hdf5")) == len(EVERY)
