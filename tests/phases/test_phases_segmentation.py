"""M2 and M3: the cost, the exact search, and what they do not depend on."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gap_vla.phases import Motion, segment
from gap_vla.phases.objective import Objective
from gap_vla.phases.search import segment_score

SEEDS = st.integers(0, 2**32 - 1)
BAND = (1e-3, 1e-2, 1e-3, 1e-3)
CLOSE = dict(rtol=1e-9, atol=1e-9)


def recording(seed, steps, arms=1):
    """A walk with pauses, turns and a gripper that sometimes moves; no step lies near a dead-band."""
    rng = np.random.default_rng(seed)

    def walk(width, scale):
        moves = scale * rng.normal(size=(steps, width)) * (rng.random((steps, 1)) < 0.8)
        moves += 20 * BAND[0] * np.sign(moves)
        return np.cumsum(moves, axis=0)

    position = np.concatenate([walk(3, 0.05) for _ in range(arms)], axis=1)
    turns = [
        Rotation.from_rotvec(0.3 * rng.normal(size=(steps, 3)) * (rng.random((steps, 1)) < 0.8)) for _ in range(arms)
    ]
    quaternion = np.concatenate([_compose(t) for t in turns], axis=1)
    return position, quaternion, walk(2 * arms, 0.02)


def _compose(steps):
    now, out = Rotation.identity(), []
    for step in steps:
        now = step * now
        out.append(now.as_quat()[[3, 0, 1, 2]])
    return np.array(out)


def cost_by_definition(position, quaternion, gripper, points, alpha=1.0, beta=2e-3, mean=False):
    """M2 and M3 word for word, with scipy's rotations and one cosine per step."""
    total, steps = 0.0, len(position)
    rotation = Rotation.from_quat(quaternion[:, [1, 2, 3, 0]])

    def direction(v, band):
        length = np.linalg.norm(v)
        return v / length if length > band else np.zeros_like(v)

    def sign(v):
        return np.sign(v) * (np.abs(v) > BAND[2])

    for a, b in itertools.pairwise([0, *points, steps]):
        e = min(b, steps - 1)
        p = direction(position[e] - position[a], BAND[0])
        r = direction((rotation[e] * rotation[a].inv()).as_rotvec(), BAND[1])
        g = sign(gripper[e] - gripper[a])
        d = 0.0
        for i in range(a, e):
            d -= p @ direction(position[i + 1] - position[i], BAND[0])
            d -= alpha * (r @ direction((rotation[i + 1] * rotation[i].inv()).as_rotvec(), BAND[1]))
            d -= beta * np.mean(g == sign(gripper[i + 1] - gripper[i]))
        total += d / max(e - a, 1) if mean else d
    return total


def cost_of(signals, **options):
    """M3 without the penalty, of any change points of one recording; each segment's is computed once."""
    goal, motion = Objective(**options), Motion.of(*signals)
    tables = goal.tables(motion)
    score = functools.cache(lambda a, b: segment_score(a, b, tables, goal.mean))
    return lambda points: sum(score(a, b) for a, b in itertools.pairwise([0, *map(int, points), len(motion)]))


def all_segmentations(steps, min_size):
    for k in range(steps // min_size):
        for points in itertools.combinations(range(1, steps), k):
            if all(b - a >= min_size for a, b in itertools.pairwise([0, *points, steps])):
                yield points


@given(SEEDS, st.integers(2, 40), st.booleans(), st.floats(0, 2), st.floats(0, 2))
@settings(max_examples=40, deadline=None)
def test_prefix_sums_give_the_cost_by_definition(seed, steps, mean, alpha, beta):
    signals = recording(seed, steps)
    rng = np.random.default_rng(seed)
    points = np.flatnonzero(rng.random(steps - 1) < 0.2) + 1
    cost = cost_of(signals, alpha=alpha, beta=beta, dead_band=BAND, reduction="mean" if mean else "sum")
    np.testing.assert_allclose(cost(points), cost_by_definition(*signals, points, alpha, beta, mean), **CLOSE)


@given(SEEDS, st.integers(2, 11), st.integers(1, 3), st.floats(0, 3))
@settings(max_examples=25, deadline=None)
def test_the_search_finds_the_minimum_that_brute_force_finds(seed, steps, min_size, penalty):
    signals = recording(seed, steps)
    options = dict(dead_band=BAND, beta=0.3)
    found, cost = segment(*signals, penalty=penalty, min_size=min_size, **options), cost_of(signals, **options)
    every = [cost(points) + penalty * len(points) for points in all_segmentations(steps, min_size)]
    np.testing.assert_allclose(cost(found) + penalty * len(found), min(every, default=cost([])), **CLOSE)


@given(SEEDS, st.integers(4, 9), st.sets(st.integers(0, 3), max_size=3))
@settings(max_examples=30, deadline=None)
def test_change_points_at_free_samples_cost_nothing(seed, steps, free):
    signals = recording(seed, steps)
    cost = cost_of(signals, dead_band=BAND)

    def objective(points):
        return cost(points) + 2.0 * sum(int(p) not in free for p in points)

    found = segment(*signals, penalty=2.0, free=sorted(free), min_size=1, dead_band=BAND)
    best = min(objective(points) for points in all_segmentations(steps, 1))
    np.testing.assert_allclose(objective(found), best, **CLOSE)


@given(SEEDS, st.integers(4, 12), st.sampled_from([1, 2]), st.sampled_from(["sum", "mean"]))
@settings(max_examples=20, deadline=None)
def test_every_number_of_change_points_is_optimal(seed, steps, jump, reduction):
    signals = recording(seed, steps)
    options = dict(dead_band=BAND, reduction=reduction)
    cost = cost_of(signals, **options)
    every = [points for points in all_segmentations(steps, 2) if not any(point % jump for point in points)]
    for k in range(1 + max(map(len, every))):
        found = segment(*signals, n_change_points=k, min_size=2, jump=jump, **options)
        assert len(found) == k and not any(found % jump)
        np.testing.assert_allclose(cost(found), min(cost(points) for points in every if len(points) == k), **CLOSE)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_more_penalty_never_gives_more_change_points(seed):
    signals = recording(seed, 80)
    numbers = [len(segment(*signals, penalty=p, dead_band=BAND)) for p in (0, 0.5, 1, 2, 4, 8, 16, 1000)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 0


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_distances_of_two_arms_add(seed):
    position, quaternion, gripper = recording(seed, 40, arms=2)
    points = [10, 25]
    both = cost_of((position, quaternion, gripper), dead_band=BAND)(points)
    arms = zip(*(np.split(part, 2, axis=1) for part in (position, quaternion, gripper)))
    each = [cost_of(arm, dead_band=BAND)(points) for arm in arms]
    np.testing.assert_allclose(both, sum(each), **CLOSE)


def test_extra_joints_count_as_one_more_direction():
    still, fold = np.zeros((40, 3)), np.concatenate([np.arange(20), np.arange(20)[::-1]])[:, None] * [[0.1, 0.1]]
    assert segment(still, penalty=1.0, dead_band=BAND).tolist() == []
    assert segment(still, extra=fold, penalty=1.0, dead_band=BAND).tolist() == [19]
    cost = cost_of((still, None, None, fold), extra_weight=0.5, dead_band=BAND)
    assert cost([19]) == pytest.approx(-19.0)


def test_a_turn_in_place_is_found_by_rotation_alone():
    angle = np.concatenate([np.linspace(0, 1, 30), np.full(30, 1.0)])
    axis = np.concatenate([np.zeros(30), np.linspace(0, 1, 30)])
    turn = Rotation.from_rotvec(np.outer(axis, [1, 0, 0])) * Rotation.from_rotvec(np.outer(angle, [0, 0, 1]))
    found = segment(np.zeros((60, 3)), turn.as_quat()[:, [3, 0, 1, 2]], penalty=1.0, dead_band=BAND)
    assert found.tolist() == [29]


def test_pauses_are_segments_only_with_the_rest_term():
    path = np.zeros((60, 3))
    path[:, 0] = np.concatenate([np.linspace(0, 0.2, 20), np.full(20, 0.2), np.linspace(0.2, 0.4, 20)])
    assert segment(path, penalty=1.0).tolist() == []
    assert segment(path, penalty=1.0, rest=0.5).tolist() == [19, 40]


def test_max_segment_bounds_segments_and_wide_bounds_change_nothing():
    signals = recording(5, 300)
    free = segment(*signals, penalty=1.0, dead_band=BAND)
    longest = int(np.diff([0, *free, 300]).max())
    np.testing.assert_array_equal(free, segment(*signals, penalty=1.0, dead_band=BAND, max_segment=longest))
    bounded = segment(*signals, penalty=50.0, dead_band=BAND, max_segment=40)
    assert np.diff([0, *bounded, 300]).max() <= 40


@pytest.mark.parametrize("steps", [0, 2])
def test_recordings_of_no_two_steps_have_no_change_points(steps):
    found = segment(np.zeros((steps, 3)), np.tile([1.0, 0, 0, 0], (steps, 1)), np.zeros((steps, 1)))
    assert found.dtype == np.int64
    assert found.tolist() == []


@pytest.mark.parametrize("rest", [0.0, 0.5])
def test_stationary_constant_and_repeated_samples_have_no_change_points(rest):
    assert segment(np.full((200, 3), 0.3), np.tile([1.0, 0, 0, 0], (200, 1)), np.ones(200), rest=rest).tolist() == []
    line = np.linspace(0, 1, 50)[:, None] * [[1.0, 0, 0]]
    doubled = np.repeat(line, 2, axis=0)  # duplicated time stamps
    assert segment(doubled, penalty=1.0).tolist() == []
