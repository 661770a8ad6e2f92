"""The description of a state's columns: its text form, its indices, and poses from each kind of rotation."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gap_vla.core.columns import DELTA, POSE, Columns, joined
from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError, EpisodeError

TEXTS = (
    "position quat_wxyz gripper:2",
    "joints:6 gripper_01 | joints:6 gripper_01",
    "other:3 position rot6d",
    "joints_deg:5 gripper_01",
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_form_goes_round(text):
    assert str(Columns.parse(text)) == text


@pytest.mark.parametrize("text, word", [("positon rotvec", "positon"), ("joints", "joints"), ("rotvec:4", "rotvec")])
def test_what_is_no_description_is_named(text, word):
    with pytest.raises(ConfigError, match=word):
        Columns.parse(text)


def test_indices_of_a_kind_over_two_arms():
    columns = POSE.times(2)
    assert columns.width == 18
    assert columns.of("gripper") == [7, 8, 16, 17]
    assert columns.of("rotation") == [3, 4, 5, 6, 12, 13, 14, 15]
    assert DELTA.times(2).of("gripper") == [6, 13]


@pytest.mark.parametrize("word", ["quat_wxyz", "quat_xyzw", "rotvec", "euler_xyz", "rot6d"])
def test_every_rotation_becomes_the_same_quaternion(word):
    rotation = Rotation.random(5, random_state=0)
    matrix = rotation.as_matrix()
    given = {
        "quat_wxyz": np.roll(rotation.as_quat(), 1, axis=1),
        "quat_xyzw": rotation.as_quat(),
        "rotvec": rotation.as_rotvec(),
        "euler_xyz": rotation.as_euler("xyz"),
        "rot6d": np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], axis=1),
    }[word]
    rows = np.concatenate([np.ones((5, 3)), given], axis=1)
    (arm,) = Columns.parse(f"position {word}").split(rows)
    back = Rotation.from_quat(np.roll(arm.quaternion, -1, axis=1))
    assert (back * rotation.inv()).magnitude() == pytest.approx(np.zeros(5), abs=1e-5)
    assert arm.gripper.shape == (5, 0)


def test_arrays_side_by_side_are_one_arm():
    assert str(joined([Columns.parse("position rotvec"), Columns.parse("gripper:2")])) == "position rotvec gripper:2"


def test_joints_have_no_pose_and_undescribed_columns_say_how_to_describe_them():
    episode = Episode({}, np.zeros((4, 6), np.float32), np.zeros((4, 6), np.float32))
    with pytest.raises(EpisodeError, match="--columns"):
        _ = episode.arms
    with pytest.raises(EpisodeError, match="joints:6"):
        _ = episode.replace(columns=Columns.parse("joints:6")).arms


@pytest.mark.parametrize(
    "key, value",
    [
        ("action", np.zeros((3, 7), np.float32)),
        ("proprio", np.full((4, 9), np.nan, np.float32)),
        ("images", {"image_primary": np.zeros((4, 8, 8, 3), np.float32)}),
        ("rho", np.float32([0, 0, np.nan, 0])),
        ("columns", Columns.parse("position")),
    ],
)
def test_an_episode_that_cannot_be_used_is_refused_by_its_field(key, value):
    episode = Episode({}, np.zeros((4, 9), np.float32), np.zeros((4, 7), np.float32), columns=POSE)
    episode.validate()
    named = {"images": "image_primary", "columns": "proprio"}.get(key, key)
    with pytest.raises(EpisodeError, match=named):
        episode.replace(**{key: value}).validate()
