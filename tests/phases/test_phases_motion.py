"""Signals, noise, dead-bands and smoothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gap_vla.phases import DeadBand, Motion, default_dead_band, default_penalty
from gap_vla.phases.motion import relative_rotation_vector, steps_of
from gap_vla.phases.noise import default_window, fast_step, is_disturbed, noise_level, resting_step, smooth_motion

SEEDS = st.integers(0, 2**32 - 1)


def wxyz(rotation: Rotation) -> np.ndarray:
    return rotation.as_quat()[..., [3, 0, 1, 2]]


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_relative_rotation_is_the_log_of_the_world_frame_rotation(seed):
    first, second = Rotation.random(2, rng=np.random.default_rng(seed))
    ours = relative_rotation_vector(wxyz(first), -wxyz(second))
    np.testing.assert_allclose(Rotation.from_rotvec(ours).as_matrix(), (second * first.inv()).as_matrix(), atol=1e-9)
    assert np.linalg.norm(ours) <= np.pi + 1e-9


def test_motion_between_two_samples_is_m1():
    turn = Rotation.from_rotvec([[0, 0, 0], [0, 0, 0.3]])
    motion = Motion.of(np.array([[0.0, 0, 0], [0.1, 0, 0]]), wxyz(turn), np.array([0.0, 0.02]))
    (position,), (rotation,), (gripper,), _ = steps_of(motion)
    np.testing.assert_allclose(position, [[0.1, 0, 0]])
    np.testing.assert_allclose(rotation, [[0, 0, 0.3]])
    np.testing.assert_allclose(gripper, [0.02])


def moving(rng, steps=150, speed=0.01, sigma=0.0):
    path = np.cumsum(np.repeat(rng.normal(size=(6, 3)), steps // 6, axis=0), axis=0)
    path *= speed / np.abs(np.diff(path, axis=0)).max()
    return path + rng.normal(0, sigma, path.shape) if sigma else path


@pytest.mark.parametrize("sigma", [1e-4, 5e-3])
def test_noise_is_measured_within_a_fifth(sigma):
    path = moving(np.random.default_rng(3), sigma=sigma)
    assert noise_level(np.diff(path, axis=0)) == pytest.approx(sigma, rel=0.2)


def test_dead_bands_scale_with_the_unit_and_grow_with_the_noise():
    quiet, loud = (Motion.of(moving(np.random.default_rng(1), sigma=s)) for s in (1e-4, 1e-3))
    steps = [steps_of(motion).position for motion in (quiet, loud)]
    assert default_dead_band([quiet]).position == pytest.approx(
        max(0.05 * fast_step(steps[:1]), resting_step(steps[0], 1))
    )
    assert (
        default_dead_band([loud]).position == pytest.approx(resting_step(steps[1], 1)) == pytest.approx(4e-3, rel=0.2)
    )
    millimetres = Motion.of(loud.position * 1000)
    assert default_dead_band([millimetres]).position == pytest.approx(1000 * default_dead_band([loud]).position)


def test_a_recording_at_rest_has_dead_bands_above_rounding():
    still = Motion.of(np.ones((50, 3), np.float32), np.tile([1.0, 0, 0, 0], (50, 1)), np.full(50, 0.04))
    band = default_dead_band([still])
    assert band == DeadBand(1e-6, np.pi, 1e-6, 1e-6)


def test_a_held_orientation_does_not_count_and_a_turning_one_does():
    rng = np.random.default_rng(0)
    wobble = Rotation.from_rotvec(0.02 * rng.normal(size=(150, 3)))
    turning = Rotation.from_rotvec(np.outer(np.linspace(0, 1.5, 150), [0, 0, 1]))
    held, turned = (Motion.of(moving(rng), wxyz(r)) for r in (wobble, turning))
    assert default_dead_band([held]).rotation == np.pi
    assert default_dead_band([turned]).rotation < 0.03
    assert default_dead_band(one for one in [turned]) == default_dead_band([turned])


def test_resting_steps_of_noise_and_of_a_disturbed_motion_are_told_apart_and_measured():
    sigma, rng = 3e-3, np.random.default_rng(4)
    white, walk = rng.normal(0, sigma, (600, 3)), np.cumsum(rng.normal(0, sigma, (600, 3)), axis=0)
    assert not is_disturbed(np.diff(white, axis=0)) and is_disturbed(np.diff(walk, axis=0))
    for path in (white, walk):
        for window in (1, 3, 9):
            left = steps_of(smooth_motion(Motion.of(path), window)).position[20:-20]
            lengths = np.linalg.norm(left, axis=-1)
            found = resting_step(np.diff(path, axis=0), window)
            # a moving average's steps are x[t+w] - x[t] over w: of noise √2 σ / w; of a walk s / √w
            assert found == pytest.approx(np.quantile(lengths, 0.95), rel=0.25)


def test_a_disturbed_motion_gets_a_wider_dead_band_than_noise_that_looks_alike():
    rng = np.random.default_rng(0)
    path = moving(rng, speed=0.004)
    noisy = Motion.of(path + rng.normal(0, 1e-3, path.shape))
    disturbed = Motion.of(path + np.cumsum(rng.normal(0, 1e-3 / 0.548, path.shape), axis=0))
    assert noise_level(steps_of(disturbed).position) == pytest.approx(noise_level(steps_of(noisy).position), rel=0.3)
    bands = [default_dead_band([motion], smooth=5).position for motion in (noisy, disturbed)]
    assert bands[1] > 1.8 * bands[0]


def test_clean_recordings_are_not_smoothed_and_noisy_ones_are():
    windows = [default_window([Motion.of(moving(np.random.default_rng(2), sigma=s))]) for s in (0, 1e-3, 3e-3)]
    assert windows[0] == 1
    assert 1 < windows[1] < windows[2]


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_smoothing_commutes_with_reversing_time_and_ignores_quaternion_signs(seed):
    rng = np.random.default_rng(seed)
    path = moving(rng, sigma=1e-3)
    turns = wxyz(Rotation.from_rotvec(np.cumsum(0.05 * rng.normal(size=(150, 3)), axis=0)))
    flipped = turns * rng.choice([-1, 1], size=(150, 1))
    forward = smooth_motion(Motion.of(path, turns), 5)
    backward = smooth_motion(Motion.of(path[::-1], flipped[::-1]), 5)
    np.testing.assert_allclose(forward.position, backward.position[::-1], atol=1e-12)
    np.testing.assert_allclose(steps_of(forward).rotation, -steps_of(backward).rotation[::-1], atol=1e-12)


def test_the_default_penalty_follows_the_length_within_bounds():
    penalties = [default_penalty([Motion.of(np.zeros((n, 3)))]) for n in (0, 20, 80, 120, 400, 10_000)]
    assert penalties == [0.5, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert default_penalty(Motion.of(np.zeros((80, 6))) for _ in range(1)) == 2.0  # distances of two arms add
