"""Samples, bounds and episodes are whole numbers; masks and fractions would be taken for others in silence."""

import numpy as np
import pytest

from gap_vla.core.episode import Episode
from gap_vla.phases import MotionError, annotate, segment

CORNER = np.concatenate([np.linspace([0, 0, 0], [0.1, 0, 0], 20), np.linspace([0.1, 0, 0], [0.1, 0.1, 0], 20)])


@pytest.mark.parametrize("free", [np.array([10.5]), np.arange(40) == 20, np.array(["20"])])
def test_free_samples_are_numbers_of_samples(free):
    with pytest.raises(MotionError, match=r"free is .*; give the numbers of samples"):
        segment(CORNER, free=free)


@pytest.mark.parametrize("bound", ["min_size", "max_segment", "jump", "n_change_points"])
@pytest.mark.parametrize("value", [True, -1])
def test_bounds_of_segments_are_whole_numbers(bound, value):
    with pytest.raises(MotionError, match=f"{bound} is .*; it must be a whole number from"):
        segment(CORNER, **{bound: value})


@pytest.mark.parametrize("fit", [[True, False], [-1], [2]])
def test_episodes_to_fit_on_are_named_by_their_place(fit):
    proprio = np.concatenate([CORNER, np.tile([1.0, 0, 0, 0, 0.04, -0.04], (40, 1))], 1).astype(np.float32)
    episodes = [Episode(images={}, proprio=proprio, action=np.zeros((40, 7), np.float32))] * 2
    with pytest.raises(MotionError, match=r"an episode of fit is .*; it must be a whole number from 0 to 1"):
        annotate(episodes, method="gaussian", fit=fit)
