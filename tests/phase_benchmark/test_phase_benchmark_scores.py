"""Scores of boundaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from experiments.phase_benchmark.scores import boundary_scores, match_boundaries


@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_matching_boundaries_is_maximal(seed, tolerance):
    rng = np.random.default_rng(seed)
    found, true = (np.sort(rng.choice(40, rng.integers(0, 8), replace=False)) for _ in range(2))
    fits = np.abs(found[:, None] - true[None]) <= tolerance
    rows, columns = linear_sum_assignment(fits, maximize=True)
    assert len(match_boundaries(found, true, tolerance)) == int(fits[rows, columns].sum())


def test_scores_count_each_boundary_once():
    scores = boundary_scores([np.array([10, 11, 12])], [np.array([11])], 2)
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == 1
    assert boundary_scores([np.zeros(0)], [np.zeros(0)], 2)["f1"] == 1
