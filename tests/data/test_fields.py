"""Fields of somebody's data are named the same on the command line, in a preset and in a configuration."""

from __future__ import annotations

import argparse

import pytest

from gap_vla.core.config import build
from gap_vla.core.errors import ConfigError
from gap_vla.core.identity import plain
from gap_vla.demos.fields import Fields, add_options, fields_from
from gap_vla.demos.lerobot_names import columns_from, names_of


def fields_of(*words: str) -> Fields:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return fields_from(parser.parse_args(words))


def test_options_say_what_a_configuration_says() -> None:
    asked = fields_of(*"--state a+b --image image_primary=top --columns joints:6 --image-size 8 9".split())
    assert asked == Fields(state="a+b", images={"image_primary": "top"}, columns="joints:6", image_size=(8, 9))
    assert build(Fields, plain(asked)) == asked
    assert fields_of() == Fields()
    assert fields_of("--image", "none").images == {}
    assert fields_of("--instruction", "text=push it").text == "push it"


def test_what_is_said_wins_over_the_preset() -> None:
    fields = Fields(layout="libero", state="observation/other").of("rlds")
    assert fields.state == "observation/other"
    assert fields.columns == "position rotvec gripper:2"
    assert Fields(layout="libero").of("robomimic_hdf5").state == "obs/ee_pos+obs/ee_ori+obs/gripper_states"


@pytest.mark.parametrize(
    ("field", "value"),
    [("layout", "liberi"), ("columns", "joints"), ("action_columns", "pose"), ("images", {"top": "a"})],
)
def test_a_misspelt_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=str(value) if isinstance(value, str) else "top"):
        build(Fields, {field: value})


SO_101 = "shoulder_pan.pos shoulder_lift.pos elbow_flex.pos wrist_flex.pos wrist_roll.pos gripper.pos"
ALOHA = "waist shoulder elbow forearm_roll wrist_angle wrist_rotate gripper"


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ("x y z rx ry rz gripper", "position rotvec gripper_01"),
        ("x y z axis_angle1 axis_angle2 axis_angle3 gripper gripper", "position rotvec gripper:2"),
        ("x y z roll pitch yaw gripper", "position euler_xyz gripper_01"),
        ("x y z qx qy qz qw gripper", "position quat_xyzw gripper_01"),
        ("x y z qw qx qy qz finger_1 finger_2", "position quat_wxyz gripper:2"),
        ("ee.x ee.y ee.z ee.wx ee.wy ee.wz ee.gripper_pos", "position rotvec gripper_01"),
        ("delta_x_ee delta_y_ee delta_z_ee gripper_delta", "position gripper_01"),
        ("x y z", "position"),
        (SO_101, "joints_deg:5 gripper_01"),
        (" ".join(f"{side}_{name}" for side in ("left", "right") for name in ALOHA.split()),
         "joints:6 gripper_01 | joints:6 gripper_01"),
        ("joint_1.pos joint_2.pos gripper.pos", "joints:2 gripper_01"),
        ("x y z quat_x quat_y quat_z quat_w", "position quat_xyzw"),
        ("joint_0 joint_1 joint_2 gripper", "joints:3 gripper_01"),
        ("x y z force", "position other:1"),
        ("motor_0 motor_1 motor_2", "None"),
        ("left_x right_x left_y right_y left_z right_z", "None"),
    ],
)  # fmt: skip
def test_declared_names_describe_the_columns(names: str, columns: str) -> None:
    assert str(columns_from(names.split())) == columns


@pytest.mark.parametrize(
    "said", [["x", "y", "z"], {"motors": ["x", "y", "z"]}, {"y": 1, "x": 0, "z": 2}, {"axes": {"x": 0, "y": 1, "z": 2}}]
)
def test_names_are_found_in_each_form_that_lerobot_writes(said: object) -> None:
    assert names_of(said, 3) == ["x", "y", "z"]
    assert names_of(said, 4) == []
