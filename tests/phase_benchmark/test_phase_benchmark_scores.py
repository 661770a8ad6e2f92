"""Scores of boundaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from experiments.phase_benchmark.scores import boundary_scores, match_boundaries


@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_matching_boundaries_is_maximal_and_of_them_the_nearest(seed, tolerance):
    rng = np.random.default_rng(seed)
    found, true = (np.sort(rng.choice(40, rng.integers(0, 8), replace=False)) for _ in range(2))
    distance = np.abs(found[:, None] - true[None])
    gain = np.where(distance <= tolerance, 1000 - distance, 0)  # one pair more is worth every distance
    expected = int(gain[linear_sum_assignment(gain, maximize=True)].sum())
    pairs = match_boundaries(found, true, tolerance)
    assert sum(1000 - abs(f - t) for f, t in pairs) == expected
    assert len({f for f, _ in pairs}) == len({t for _, t in pairs}) == len(pairs)


def test_a_boundary_that_is_found_exactly_has_no_timing_error():
    assert boundary_scores([np.array([24, 30, 60])], [np.array([30, 60])], 10)["timing_error"] == 0


def test_scores_count_each_boundary_once():
    scores = boundary_scores([np.array([10, 11, 12])], [np.array([11])], 2)
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == 1
    assert boundary_scores([np.zeros(0)], [np.zeros(0)], 2)["f1"] == 1
