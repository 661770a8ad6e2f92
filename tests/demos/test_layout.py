"""States of other conventions become position, quaternion wxyz and two fingers."""

from __future__ import annotations

import numpy as np
import pytest

from gap_vla.core.episode import EpisodeError
from gap_vla.demos.column_names import tell_last
from gap_vla.demos.layout import StateLayout, to_quaternion
from gap_vla.phases.motion import relative_rotation_vector


def test_layouts_agree_on_rotations() -> None:
    rng = np.random.default_rng(0)
    rotvec = rng.normal(size=(20, 3)) * 0.5
    wxyz = to_quaternion(rotvec, "rotvec")
    state = np.concatenate([rng.normal(size=(20, 3)), np.roll(wxyz, -1, 1), rng.random((20, 2))], 1)
    ours = StateLayout.of("robomimic").to_proprio(state)
    np.testing.assert_allclose(ours[:, 3:7], wxyz, atol=1e-6)
    about_z = np.array([[0, 0, 0.3], [0, 0, 0.7]])
    np.testing.assert_allclose(to_quaternion(about_z, "euler_xyz"), to_quaternion(about_z, "rotvec"), atol=1e-12)
    turn = relative_rotation_vector(*to_quaternion(about_z, "rotvec"))
    np.testing.assert_allclose(turn, [0, 0, 0.4], atol=1e-12)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("robot", "unknown layout 'robot'; known: gap"),
        ({}, "layout {}: give a name .*, or JSON of position"),
        ({"gripper": (12,)}, "column 12 is outside"),
        ({"gripper": [2]}, "column 2 is two of"),
        ({"gripper": [7, 7]}, "column 7"),
        ({"position": 2}, "column 3"),
    ],
)
def test_impossible_layouts_are_refused(layout, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        StateLayout.of(layout)


def test_a_rotation_that_is_no_text_is_refused() -> None:
    with pytest.raises(EpisodeError, match=r"rotation \['quat_wxyz'\] is unknown"):
        StateLayout.of({"rotation_kind": ["quat_wxyz"]})


POSE = [*"xyz", "qw", "qx", "qy", "qz", "a", "b"]


@pytest.mark.parametrize(
    ("names", "layout", "message"),
    [
        (["x_mm", "y_mm", "z_mm", *POSE[3:]], "gap", "'x_mm' in m or rad; convert it"),
        (["x [mm]", "y [mm]", "z [mm]", *POSE[3:]], "gap", r"'x \[mm\]' in m or rad"),
        ([*"xyz", "roll_deg", "pitch_deg", "yaw_deg", "grip"], "bridge", "'roll_deg' in m or rad"),
        ([*"xyz", "roll_rad", "pitch_rad", "yaw_rad", "grip_deg"], "bridge", None),
        (["x.pos", "y.pos", "z.pos", *POSE[3:]], "gap", None),
        (["x_pos", "z_pos", "y_pos", *POSE[3:]], "gap", "columns x_pos, z_pos, y_pos as x, y, z"),
        (["x_m", "z_m", "y_m", *POSE[3:]], "gap", "columns x_m, z_m, y_m as x, y, z"),
        ([*"xyz", "rz_rad", "ry_rad", "rx_rad", "grip"], "bridge", "columns rz_rad, ry_rad, rx_rad as roll"),
        ([*"xyz", "rx", "ry", "rz", "rw", "a", "b"], "gap", "rx, ry, rz, rw, .* layout=robomimic"),
        ([*"xyz", "ox", "oy", "oz", "ow", "a", "b"], "gap", "ox, oy, oz, ow, .* layout=robomimic"),
        ([*"xyz", "rx", "ry", "rz", "rw", "a", "b"], "robomimic", None),
        ([*"xyz", "rw", "rx", "ry", "rz", "a", "b"], "gap", None),
        ([*"xyz", "rx", "ry", "rz", "grip"], "bridge", None),
        ([*"xyz", "rx", "ry", "rz", "a", "b", "c"], "gap", None),
        ([*"xyz", *(f"axis_angle_{i}" for i in range(3)), "grip"], "bridge", "'axis_angle_0' as roll, .* rotvec"),
        ([*"xyz", *(f"axis_angle_{i}" for i in range(3)), "a", "b"], "libero", None),
        ([*"xyz", *"xyzw", "a", "b"], "gap", "columns 3 to 6 x, y, z, w, .* layout=robomimic"),
        ([*"xyz", *"xyzw", "a", "b"], "robomimic", None),
        ([*"xyz", *"ijkw", "a", "b"], "gap", "columns 3 to 6 i, j, k, w, .* layout=robomimic"),
        ([*"xyz", "qi", "qj", "qk", "qr", "a", "b"], "gap", "columns 3 to 6 qi, qj, qk, qr, .* layout=robomimic"),
        ([*"xyz", *(f"{n}_quat" for n in "xyzw"), "a", "b"], "gap", "columns 3 to 6 x_quat, .* layout=robomimic"),
        ([*"xyz", "roll", "pitch", "yaw", "pad", "a", "b"], "gap", "columns roll, pitch, yaw as a quaternion wxyz"),
        ([*POSE[:7], "finger_1_mm", "finger_2_mm"], "gap", "'finger_1_mm' in m or rad; convert it"),
        ([*POSE[:7], "finger_1_m", "finger_2_m"], "gap", None),
        ([*POSE[:7], "grip_mm"], "quaternion_wxyz", None),
        ([*POSE[:7], "force_1", "force_2"], "gap", "'force_1' as a finger's position; name the columns"),
        ([*POSE[:7], "finger_1_vel", "finger_2_vel"], "gap", "'finger_1_vel' as a finger's position"),
        ([*POSE[:7], "panda_finger_joint1", "panda_finger_joint2"], "gap", None),
        (["f1", "f2", "f3", *POSE[3:7], "x", "y"], "gap", "'x' as a finger's position"),
        ([*(f"{n}_inch" for n in "xyz"), *POSE[3:]], "gap", "'x_inch' in m or rad"),
        ([*(f"{n}MM" for n in "xyz"), *POSE[3:]], "gap", "'xMM' in m or rad"),
        ([*(f"pos_mm_{n}" for n in "xyz"), *POSE[3:]], "gap", "'pos_mm_x' in m or rad"),
        ([*(f"{n}_millimeters" for n in "xyz"), *POSE[3:]], "gap", "'x_millimeters' in m or rad"),
        (["ax", "ay", "az", *POSE[3:]], "gap", "columns ax, ay, az as x, y, z"),
        ([*(f"effort_{n}" for n in "123"), *POSE[3:]], "gap", "columns effort_1, effort_2, effort_3 as x, y, z"),
        (["x", "y", "vz", *POSE[3:]], "gap", "columns x, y, vz as x, y, z"),
        (["x", "joint_2", "z", *POSE[3:]], "gap", "columns x, joint_2, z as x, y, z"),
        (["timestamp", "y", "z", *POSE[3:]], "gap", "columns timestamp, y, z as x, y, z"),
        (["eef_joint_x", "y", "z", *POSE[3:]], "gap", None),
        ([*"xyz", "rx", "ry", "rz", "grip", "a", "b"], "gap", "'grip' as part of a rotation"),
        ([*"xyz", *(f"joint_{i}" for i in range(4)), "a", "b"], "gap", "'joint_0' as part of a rotation"),
        ([*"xyz", *(f"q{c}_vel" for c in "wxyz"), "a", "b"], "gap", "'qw_vel' as part of a rotation"),
        ([*"xyz", "force_x", "force_y", "force_z", "grip"], "bridge", "'force_x' as part of a rotation"),
        ([*"xyz", "sin_yaw", "cos_yaw", "a", "grip"], "bridge", "'sin_yaw' as part of a rotation"),
        ([*"xyz", "ax", "ay", "az", "a", "b"], "libero", None),
        ([*"xyz", *(f"q{i}" for i in range(4)), "a", "b"], "gap", None),
        ([*"xyz", *(f"quat_xyzw_{i}" for i in range(4)), "a", "b"], "gap", "'quat_xyzw_0' as quat wxyz; give another"),
        ([*"xyz", *(f"quat_xyzw_{i}" for i in range(4)), "a", "b"], "robomimic", None),
        ([*"xyz", *(f"rot6d_{i}" for i in range(4)), "a", "b"], "gap", "'rot6d_0' as quat wxyz"),
        ([*"xyz", "axis_x", "axis_y", "axis_z", "angle", "a", "b"], "gap", "'axis_x' as quat wxyz"),
        ([*"xyz", "qx", "qy", "qz", "grip"], "bridge", "'qx' as euler xyz"),
        ([*"xyz", *(f"euler_{i}" for i in range(3)), "a", "b"], "libero", "'euler_0' as rotvec"),
        ([*POSE[:7], "finger_1", "timestamp"], "gap", "'timestamp' as a finger's position"),
        ([*POSE[:7], "roll", "pitch"], "gap", "'roll' as a finger's position"),
        ([*POSE[:7], "joint_1", "joint_2"], "gap", "'joint_1' as a finger's position"),
        ([*POSE[:7], "finger_1_rad", "finger_2_rad"], "gap", "'finger_1_rad' as a finger's position"),
        ([*POSE[:7], "finger_pad_1", "finger_pad_2"], "gap", None),
        ([*POSE[:7], "grip_percent"], "quaternion_wxyz", None),
        ([*POSE[:7], "timestamp"], "quaternion_wxyz", "'timestamp' as the gripper's opening"),
        ([*POSE[:7], "pad"], "quaternion_wxyz", "'pad' as the gripper's opening"),
        (["shoulder_pan.pos", "wrist_roll.pos", "grip.pos", *"abcdef"], {"position": 3, "rotation_kind": "none"}, None),
    ],
)
def test_columns_are_taken_for_what_they_are_called(names, layout, message) -> None:  # type: ignore[no-untyped-def]
    if message is None:
        StateLayout.of(layout).require_names(names, "here")
    else:
        with pytest.raises(EpisodeError, match=message):
            StateLayout.of(layout).require_names(names, "here")


def test_an_array_of_another_rotation_is_no_state() -> None:
    StateLayout.of("robomimic").require_positions(["pose_xyz_quat_xyzw"] * 9, "here")
    with pytest.raises(EpisodeError, match="here: the layout takes 'pose_xyz_quat_xyzw' as quat wxyz; give another"):
        StateLayout().require_positions(["pose_xyz_quat_xyzw"] * 9, "here")


def test_an_array_in_mm_is_no_state() -> None:
    with pytest.raises(EpisodeError, match="here: the layout takes 'state_mm' in m or rad"):
        StateLayout().require_positions(["state_mm"] * 9, "here")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*"xyz", "qx", "qy", "qz", "qw"], "'qw', the last number of an arm's action, is taken as the gripper's"),
        ([f"joint_{i}" for i in range(1, 8)], "'joint_7'"),
        (["dx", "dy", "dz", "rx", "ry", "rz", "hand_open"], ""),
        ([f"joint_{i}" for i in range(6)], ""),
        ([], ""),
    ],
)
def test_an_action_that_ends_with_no_gripper_by_its_name_is_noted(names, said, capsys) -> None:  # type: ignore[no-untyped-def]
    tell_last(names, "here")
    told = capsys.readouterr().out
    assert told.startswith(f"note: here: {said}") if said else not told
