"""M4, M5: targets, weights, the LSTM and its files."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gap_vla.core.errors import EpisodeError
from gap_vla.phases import Motion, PhaseEstimator
from gap_vla.phases.estimator import EstimatorSettings, held_out_split
from gap_vla.phases.lstm import gradients
from gap_vla.phases.targets import (
    distance_to_change,
    label_changes,
    near_boundaries,
    soft_targets,
    step_weights,
)
from gap_vla.phases.training import initial


def zigzag(seed, steps=60):
    """A path that turns every 15 steps and slows down before, with wrist and fingers."""
    rng = np.random.default_rng(seed)
    speed = np.tile(np.r_[np.linspace(0.4, 1, 7), np.linspace(1, 0.2, 8)], steps // 15)[:, None] * 0.01
    heading = np.repeat(rng.normal(size=(steps // 15, 3)), 15, axis=0)
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(speed * heading, axis=0)[:-1]])
    half = np.cumsum(0.01 * rng.normal(size=steps))
    turn = np.stack([np.cos(half), np.zeros(steps), np.zeros(steps), np.sin(half)], axis=1)
    return Motion.of(path, turn, np.repeat(rng.random((steps // 15, 2)), 15, axis=0)), np.arange(15, steps, 15)


def scraps(seed, steps=10):
    """Ten noisy steps with at most one turn."""
    rng = np.random.default_rng(seed)
    turn = int(rng.integers(3, 2 * steps))
    heading = rng.normal(size=(2, 3))
    speed = 0.01 * np.where(np.arange(steps)[:, None] < turn, heading[0], heading[1])
    path = np.cumsum(speed + rng.normal(0, 0.004, (steps, 3)), axis=0)
    return Motion.of(path), np.array([turn] if turn < steps else [], np.int64)


@pytest.fixture(scope="module")
def trained():
    recordings, points = zip(*(zigzag(seed) for seed in range(20)))
    return PhaseEstimator(updates=90, lookahead=1, seed=3).fit(recordings, points)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_distance_is_that_to_the_nearest_change_point_or_first_step(length, seed):
    points = np.flatnonzero(np.random.default_rng(seed).random(length) < 0.1)
    points = points[points > 0]
    steps, anchors = np.arange(length), np.concatenate([[0], points])
    np.testing.assert_array_equal(distance_to_change(points, length), np.abs(steps[:, None] - anchors).min(axis=1))
    one_sided = distance_to_change(points, length, one_sided=True)
    np.testing.assert_array_equal(one_sided, [t - anchors[anchors <= t].max() for t in steps])


def test_the_switches_of_a_labelled_column_are_its_change_points():
    assert label_changes(np.array(["reach", "reach", "lift"])).tolist() == [2]
    assert label_changes(np.array([[1], [1], [2]])).tolist() == [2] and not len(label_changes(np.zeros(0)))
    assert near_boundaries(np.array([2]), 5, 1).tolist() == [False, True, True, True, False]
    for odd in (np.eye(3)[[0, 0, 1]], np.array([1, np.nan])):
        with pytest.raises(EpisodeError):
            label_changes(odd)


def test_negatives_weigh_k_d_squared_up_to_the_bound():
    np.testing.assert_allclose(step_weights(np.array([4]), 8, k=0.1, most=0.5), [1, 0.1, 0.4, 0.1, 1, 0.1, 0.4, 0.5])


def test_soft_targets_are_the_kernel_of_the_distance():
    np.testing.assert_allclose(soft_targets(np.array([9]), 14, 2.0)[[0, 2, 9, 11, 13]], np.exp([0, -0.5, 0, -0.5, -2]))
    after = soft_targets(np.array([9]), 14, 2.0, one_sided=True)
    np.testing.assert_allclose(after[[8, 9, 11]], np.exp([-8, 0, -0.5]), rtol=1e-6)


def test_a_spread_makes_rho_as_wide_as_asked(trained):
    recordings, points = zip(*(zigzag(seed) for seed in range(20)))
    motion, true = zigzag(99)
    wide = PhaseEstimator(updates=90, lookahead=4, spread=3.0, seed=3).fit(recordings, points)
    rho = wide.predict(motion)
    assert np.abs(rho - soft_targets(true, len(motion), 3.0))[8:].mean() < 0.1
    assert wide.report["held_out_calibration"]["error"] < 0.1
    width, narrow = ((found > 0.5).sum() / (len(true) + 1) for found in (rho, trained.predict(motion)))
    assert narrow < width == pytest.approx(2 * 1.18 * 3, abs=1.5)


def test_short_recordings_are_not_learnt_by_heart():
    """Fifty recordings of ten noisy steps: ρ must hold on others like them, not only on those it was trained on."""
    recordings, points = zip(*(scraps(seed) for seed in range(50)))
    others, true = zip(*(scraps(seed) for seed in range(100, 150)))
    estimator = PhaseEstimator(lookahead=2).fit(recordings, points)
    assert estimator._measure(others, true, range(50))["held_out_calibration"]["error"] < 0.12


def test_long_recordings_are_learnt_in_pieces():
    motion, points = zigzag(0, steps=600)
    report = PhaseEstimator(updates=3).fit([motion], [points]).report
    assert np.isfinite(report["train_loss"]) and report["scale"] == 1


def test_nothing_is_learnt_from_what_is_held_out():
    """Not the weights, not the scale of the features: only which epoch is kept depends on it."""
    recordings, points = zip(*(zigzag(seed) for seed in range(10)))
    settings = EstimatorSettings(updates=2, held_out=0.2)
    _, held = held_out_split(list(range(10)), settings)
    wild = list(recordings)
    for i in held:
        wild[i] = dataclasses.replace(wild[i], position=100 * wild[i].position)
    calm, other = (PhaseEstimator(updates=2, held_out=0.2).fit(r, points).weights for r in (recordings, wild))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(calm, other))


def test_the_report_holds_held_out_loss_and_calibration(trained):
    report = trained.report
    assert report["recordings"] == 20 and report["held_out_recordings"] == 2
    assert 0 < report["held_out_loss"] < 1
    assert 0 <= report["held_out_calibration"]["error"] < 0.2
    json.dumps(report)


def test_network_and_gradients_are_those_of_torch():
    rng = np.random.default_rng(0)
    p = initial(5, 8, rng)
    x, y, w = rng.normal(size=(30, 3, 5)), rng.random((30, 3)) < 0.2, rng.random((30, 3))
    x, y, w = (array.astype(np.float32) for array in (x, y, w))
    lstm, head = torch.nn.LSTM(5, 8, num_layers=2), torch.nn.Linear(8, 1)
    theirs = {
        f"{kind}_l{k}": p[3 * k + i] for k in (0, 1) for i, kind in enumerate(("weight_ih", "weight_hh", "bias_ih"))
    }
    with torch.no_grad():
        for name, value in theirs.items():
            getattr(lstm, name).copy_(torch.from_numpy(value.T))
        for bias in (lstm.bias_hh_l0, lstm.bias_hh_l1):
            bias.zero_()
        head.weight.copy_(torch.from_numpy(p[6][None]))
        head.bias.copy_(torch.from_numpy(p[7]))
    rho = torch.sigmoid(head(lstm(torch.from_numpy(x))[0]))[..., 0]
    loss = torch.nn.functional.binary_cross_entropy(rho, torch.from_numpy(y), torch.from_numpy(w), reduction="sum")
    (loss / w.sum()).backward()
    ours, by = gradients(x, y, w, *p)
    np.testing.assert_allclose(ours, rho.detach().numpy(), atol=2e-6)
    wanted = [getattr(lstm, name).grad.numpy().T for name in theirs] + [
        head.weight.grad.numpy()[0],
        head.bias.grad.numpy(),
    ]
    for mine, other in zip(by, wanted):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def probe():
    """A digest of everything that a small training leaves."""
    recordings, points = zip(*(zigzag(seed) for seed in range(4)))
    trained = PhaseEstimator(updates=8, seed=5).fit(recordings, points)
    left = [weight.tobytes() for weight in trained.weights] + [trained.predict(recordings[0]).tobytes()]
    return hashlib.sha256(b"".join(left)).hexdigest()


@pytest.mark.slow
def test_labels_are_equal_on_old_and_new_processors(tmp_path):
    """What this processor and this number of threads offer, against SSE2 and one thread."""
    plain = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "OPENBLAS_CORETYPE": "Prescott",
        "OMP_NUM_THREADS": "1",
    }
    plain |= {
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
    }
    call = "from test_phases_estimator import probe; print(probe())"
    done = subprocess.run(
        [sys.executable, "-c", call], env=os.environ | plain, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == probe()


def test_few_long_recordings_at_the_rate_of_a_real_robot_have_a_rho_that_marks_the_changes():
    """Ten of about 310 steps gave ρ > 0.5 nowhere. So do states that are logged several times, and pauses."""
    quick = [zigzag(seed, steps=90) for seed in range(10)]
    for times, pause in ((1, 0), (3, 60)):
        rows = [np.repeat(np.arange(90), [pause + times, *[times] * 88, pause + times]) for _ in quick]
        motions = [Motion.of(m.position[r], m.quaternion[r], m.gripper[r]) for (m, _), r in zip(quick, rows)]
        points = [pause + times * p for _, p in quick]
        estimator = PhaseEstimator(lookahead=2).fit(motions, points)
        rho = [estimator.predict(motion) for motion in motions]
        assert estimator.scale == times
        assert np.mean([r[p] > 0.5 for r, p in zip(rho, points)]) >= 0.9
        far = [distance_to_change(p, len(r)) > 5 * times for r, p in zip(rho, points)]
        assert np.mean(np.concatenate(rho)[np.concatenate(far)] > 0.5) < 0.1


@pytest.mark.parametrize("lookahead", [0, 4])
def test_rho_sees_so_many_samples_ahead_and_no_more(trained, lookahead):
    estimator = PhaseEstimator(lookahead=lookahead)
    estimator.columns, estimator._weights = trained.columns, trained.weights
    motion, moved = zigzag(7)[0], zigzag(7)[0].position.copy()
    moved[30] += 0.01
    rho = estimator.predict(motion)
    other = estimator.predict(Motion(moved, motion.quaternion, motion.gripper))
    assert np.flatnonzero(rho != other)[0] == 30 - lookahead and len(rho) == 60


def test_quaternion_signs_do_not_change_rho(trained):
    motion = zigzag(8)[0]
    signs = np.random.default_rng(0).choice([-1, 1], size=(60, 1))
    flipped = Motion(motion.position, motion.quaternion * signs, motion.gripper)
    np.testing.assert_allclose(trained.predict(flipped), trained.predict(motion), atol=1e-6)


def test_empty_and_single_sample_recordings_pass_through(trained):
    def first(steps):
        motion = zigzag(0)[0]
        return Motion(motion.position[:steps], motion.quaternion[:steps], motion.gripper[:steps])

    assert trained.predict(first(0)).tolist() == []
    assert trained.predict(first(1)).shape == (1,)
    PhaseEstimator(updates=2).fit([first(0), first(1), first(30)], [np.zeros(0), np.zeros(0), np.array([15])])
