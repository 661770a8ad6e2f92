"""Where a hand begins to open or close, and what that does to change points."""

import numpy as np
import pytest

from gap_vla.phases import Motion, annotate
from gap_vla.phases.objective import default_stroke, stroke_starts


def fingers(*parts):
    """A recording that rests in place, with the given gripper signals one after the other."""
    signal = np.concatenate(parts)
    return Motion.of(np.zeros((len(signal), 3)), gripper=signal)


RAMP = np.linspace(0.04, 0.0, 8)


def test_the_first_sample_of_every_stroke_is_found():
    motion = fingers(np.full(10, 0.04), RAMP, np.zeros(10), RAMP[::-1], np.full(10, 0.04))
    assert stroke_starts(motion, 0.01).tolist() == [10, 28]
    assert default_stroke([motion]) == pytest.approx(0.01)


def test_strokes_start_slowly_and_creep_under_load_is_none():
    slow_start = np.concatenate([np.full(5, 1.0), 1.0 - np.cumsum([0.01, 0.04, 0.1, 0.2, 0.2]), np.full(5, 0.45)])
    creep = 0.45 - 0.001 * np.arange(1, 20)
    assert stroke_starts(fingers(slow_start, creep), 0.1).tolist() == [4]


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1.0])
def test_noise_alone_has_no_strokes(sigma):
    for seed in range(20):
        motion = fingers(np.random.default_rng(seed).normal(0, sigma, 200))
        assert stroke_starts(motion, default_stroke([motion])).tolist() == []


def test_noise_does_not_hide_a_stroke():
    for seed in range(20):
        signal = np.concatenate([np.full(20, 0.04), RAMP, np.zeros(20)])
        noisy = fingers(signal + np.random.default_rng(seed).normal(0, 2e-4, len(signal)))
        found = stroke_starts(noisy, 0.01)
        assert len(found) == 1 and abs(int(found[0]) - 20) <= 2


def test_every_arm_has_its_own_strokes_and_its_widest_finger_decides():
    still, left, right = np.zeros(40), np.where(np.arange(40) < 10, 0.0, 1.0), np.where(np.arange(40) < 25, 1.0, 0.0)
    motion = Motion.of(np.zeros((40, 6)), gripper=np.stack([0.01 * left, left, right, still], axis=1))
    assert stroke_starts(motion, 0.25).tolist() == [9, 24]


@pytest.mark.parametrize("gripper", [None, np.zeros((30, 2))])
def test_without_a_moving_hand_there_are_no_strokes(gripper):
    motion = Motion.of(np.zeros((30, 3)), gripper=gripper)
    assert default_stroke([motion]) == 0 and stroke_starts(motion, default_stroke([motion])).tolist() == []
    assert stroke_starts(Motion.of(np.zeros((1, 3)), gripper=np.zeros(1)), 0.1).tolist() == []


def test_a_straight_motion_is_cut_where_the_hand_closes_unless_strokes_are_switched_off(straight_demo):
    assert annotate([straight_demo], method="change_points").change_points[0].tolist() == [30]
    assert annotate([straight_demo], method="change_points", stroke=0).change_points[0].tolist() == []
    assert annotate([straight_demo], method="change_points").identity["options"]["stroke"] == pytest.approx(0.01)


@pytest.fixture
def straight_demo():
    from gap_vla.core.columns import POSE
    from gap_vla.core.episode import Episode

    proprio = np.zeros((60, 9), np.float32)
    proprio[:, 0], proprio[:, 3] = 0.01 * np.arange(60), 1
    proprio[:, 7] = np.concatenate([np.full(30, 0.04), RAMP, np.zeros(22)])
    return Episode(images={}, proprio=proprio, action=np.zeros((60, 7), np.float32), columns=POSE)
