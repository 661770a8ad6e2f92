"""Phases from joint angles, where neither a pose nor the robot is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gap_vla.core.columns import Columns
from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.demos.fields import Fields
from gap_vla.demos.source import open_source
from gap_vla.phases import Motion, annotate, load_annotator
from gap_vla.phases.objective import Objective
from gap_vla.phases.search import segment_score
from tests.helpers.demonstrations import write_lerobot

SEEDS = st.integers(0, 2**32 - 1)
BAND = (0.05, 1.0, 1.0, 1.0)


def walk(seed, steps, arms=1, joints=4):
    """Joint paths with pauses and turns."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(size=(steps, joints * arms)) * np.repeat(rng.random((steps, arms)) < 0.8, joints, axis=1)
    return Motion.of(np.cumsum(moves, axis=0), joints=joints)


def written_out(motion, points, rest=0.0):
    """The least squares fit of a direction that is linear in time, segment by segment, arm by arm."""
    total, steps = 0.0, len(motion)
    for arm in np.split(motion.position, motion.arms, axis=1):
        moved = np.diff(arm, axis=0)
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        unit = np.where(length > BAND[0], moved / np.maximum(length, 1e-12), 0)
        for a, b in itertools.pairwise([0, *points, steps]):
            e = min(b, steps - 1)
            if e == a:
                continue
            time = np.stack([np.ones(e - a), np.arange(e - a)], axis=1)
            fitted = time @ np.linalg.lstsq(time, unit[a:e])[0]
            gain = np.sqrt((e - a) * (fitted**2).sum())
            if rest and np.linalg.norm(arm[e] - arm[a]) <= BAND[0] * (e - a):
                gain = max(gain, rest * (~unit[a:e].any(axis=1)).sum())
            total -= gain
    return total


def cost_of(motion, points, **options):
    tables = Objective(dead_band=BAND, **options).tables(motion)
    return sum(segment_score(a, b, tables, False) for a, b in itertools.pairwise([0, *points, len(motion)]))


@given(SEEDS, st.integers(2, 60), st.sampled_from([1, 2]), st.sampled_from([0.0, 0.5, 2.0]))
@settings(max_examples=20, deadline=None)
def test_prefix_sums_give_the_fit_of_a_direction_that_is_linear_in_time(seed, steps, arms, rest):
    motion = walk(seed, steps, arms)
    points = np.flatnonzero(np.random.default_rng(seed).random(steps - 1) < 0.15) + 1
    found = cost_of(motion, points, rest=rest)
    np.testing.assert_allclose(found, written_out(motion, points, rest), rtol=1e-9, atol=1e-9)


def straight_hand(seed, leg=25):
    """Angles (rad) of an arm of two links of 0.3 m whose hand goes from corner to corner, and the corners' samples."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0.45, 0.1], [0.2, 0.35], [0.1, 0.2], [0.4, -0.1], [0.25, -0.25]]) + rng.normal(0, 0.02, (5, 2))
    share = np.linspace(0, 1, leg, endpoint=False)[:, None]
    share = share**2 * (3 - 2 * share)
    hand = np.concatenate([a + share * (b - a) for a, b in itertools.pairwise(corners)])
    elbow = np.arccos((hand**2).sum(1) / (2 * 0.3**2) - 1)
    shoulder = np.arctan2(hand[:, 1], hand[:, 0]) - elbow / 2
    return np.stack([shoulder, elbow], axis=1), leg * np.arange(1, 4)


def test_straight_paths_of_the_hand_are_phases_though_joints_turn_in_them():
    paths, switches = zip(*map(straight_hand, range(4)))
    annotation = annotate([of_joints(path, "joints:2") for path in paths], method="gaussian")
    for found, true in zip(annotation.change_points, switches):
        assert len(found) == len(true) and np.abs(found - true).max() <= 2


def of_joints(rows, columns):
    described = Columns.parse(columns)
    return Episode({}, rows.astype(np.float32), np.zeros((len(rows), 1), np.float32), columns=described)


def so101(steps, seed):
    """A pick and place of an SO-101: five joints and a gripper, -100 to 100, and its switches."""
    rng = np.random.default_rng(seed)
    way = np.array([
        [0, -98, 96, 55, 0, 2],
        [20, -30, 40, 60, 5, 40],
        [22, 10, 15, 70, 5, 40],
        [22, 10, 15, 70, 5, 6],
        [21, -40, 45, 60, 5, 6],
        [-35, -20, 30, 62, 3, 6],
        [-35, 5, 18, 70, 3, 6],
        [-35, 5, 18, 70, 3, 45],
        [0, -98, 96, 55, 0, 2],
    ]) + rng.normal(0, 2, (9, 6)) * [1, 1, 1, 1, 1, 0]  # fmt: skip
    edges = np.linspace(0, steps - 1, 9)
    leg = np.clip(np.searchsorted(edges, np.arange(steps), side="right") - 1, 0, 7)
    share = ((np.arange(steps) - edges[leg]) / np.diff(edges)[leg])[:, None]
    share = share**2 * (3 - 2 * share)
    rows = way[leg] * (1 - share) + way[leg + 1] * share + rng.normal(0, 0.05, (steps, 6))
    return rows, edges[1:-1].round().astype(int)


NAMES = [f"{joint}.pos" for joint in "shoulder_pan shoulder_lift elbow_flex wrist_flex wrist_roll gripper".split()]


@pytest.mark.parametrize(("version", "word"), [("v2.1", "joints_percent:5"), ("v3.0", "joints_deg:5")])
def test_joints_of_an_so101_get_rho_in_percent_and_in_degrees(tmp_path, version, word):
    """huggingface/lerobot#390, #1462: there is no pose, only joints."""
    rows, switches = zip(*(so101(steps, seed) for seed, steps in enumerate((150, 170, 160, 165))))
    made = [{"task": "Put the brick in the bin", "columns": {"observation.state": own, "action": own}} for own in rows]
    named = {"observation.state": NAMES, "action": NAMES}
    folder = write_lerobot(tmp_path / "so101", made, named, version=version, robot_type="so101_follower")
    source = open_source(folder, Fields(robot="" if version == "v2.1" else "none"))
    assert str(source.columns) == f"{word} gripper_01" and source.robot is None
    apart = []
    for rho, true in zip(annotate(source, hidden=24, updates=300).rho, switches):
        distances = np.abs(np.flatnonzero(rho > 0.5)[:, None] - np.r_[0, true])
        apart.append([distances.min(axis=axis) <= 5 for axis in (0, 1)])
    found, right = map(np.concatenate, zip(*apart))
    assert found.mean() >= 0.7  # at the others the joints go on as they went
    assert right.mean() >= 0.85


def test_an_annotator_of_joints_labels_later_episodes_alike_and_refuses_another_unit(tmp_path):
    rows = [so101(150, seed)[0] for seed in range(4)]
    episodes = [of_joints(own, "joints_deg:5 gripper_01") for own in rows]
    fitted = annotate(episodes, updates=5, check=False)
    later = load_annotator(fitted.annotator.save(tmp_path)).annotate(episodes)
    for a, b in zip([*fitted.rho, *fitted.change_points], [*later.rho, *later.change_points]):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(EpisodeError, match="joints_percent"):
        later.annotator.annotate([of_joints(rows[0], "joints_percent:5 gripper_01")])
