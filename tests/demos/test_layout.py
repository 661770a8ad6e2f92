"""States of other conventions become position, quaternion wxyz and two fingers."""

from __future__ import annotations

import numpy as np
import pytest

from gap_vla.core.episode import EpisodeError
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
