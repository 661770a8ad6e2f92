"""M6 and M7 as numbers."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.core.errors import EpisodeError

MODES = get_args(get_type_hints(AdjustmentSchedule)["mode"])
RHO = np.array([[0.0, 0.25], [1.0, 0.5]], np.float32)


def factors(step=0, mask=None, **fields):
    return AdjustmentSchedule(**fields).factors(RHO, step, 10, mask)


def test_sample_lambda_is_one_minus_lambda_rho_per_sample():
    f = factors(mode="sample_lambda", lam=0.4)
    np.testing.assert_allclose(f.sample, 1 - 0.4 * RHO, rtol=1e-6)
    assert (f.gradient, f.update) == (1, 1)


def test_batch_is_one_number_from_the_largest_rho_of_the_batch():
    f = factors(mode="batch", lam=0.3)
    np.testing.assert_array_equal(f.sample, 1)
    assert f.gradient == pytest.approx(0.7) and f.update == 1


def test_constant_slows_the_update_alone_and_needs_no_rho():
    f = factors(mode="constant", constant=0.2, rho="chunk")
    np.testing.assert_array_equal(f.sample, 1)
    assert (f.gradient, f.update) == (1, np.float32(0.2))
    schedule = AdjustmentSchedule(mode="constant", rho="chunk")
    assert not schedule.needs_rho and not schedule.of_targets


def test_padded_steps_count_neither_in_the_maximum_nor_in_the_mean():
    mask = np.array([[True, True], [False, True]])
    assert factors(mode="batch", lam=0.3, mask=mask).gradient == pytest.approx(1 - 0.3 * 0.5)
    assert factors(mode="update", lam=0.4, mask=mask).update == pytest.approx(0.4 * (1 - 0.25))
    assert factors(mode="update", lam=0.4).update == pytest.approx(0.4 * (1 - 1.75 / 4))


def test_which_rho_counts_of_the_window_and_of_the_chunk():
    np.testing.assert_array_equal(factors(rho="current").sample, [[0.75, 0.75], [0.5, 0.5]])
    mask = np.array([[True, True], [False, True]])
    np.testing.assert_array_equal(factors(rho="chunk", mask=mask).sample, 1 - RHO)
    np.testing.assert_array_equal(factors(rho="chunk_max").sample, [[0.75], [0.0]])
    np.testing.assert_array_equal(factors(rho="chunk_max", mask=mask).sample, [[0.75], [0.5]])


@pytest.mark.parametrize("mode", MODES)
def test_after_the_window_every_factor_is_exactly_one(mode):
    before, after = factors(4, mode=mode, window=0.5), factors(5, mode=mode, window=0.5)
    assert (after.sample == 1).all() and after.gradient == 1 and after.update == 1
    assert mode == "none" or not ((before.sample == 1).all() and before.gradient == 1 and before.update == 1)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MODES), st.floats(0, 1), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_factors_never_leave_the_unit_interval(mode, lam, fixed_rho, rho):
    schedule = AdjustmentSchedule(mode=mode, lam=lam, fixed_rho=fixed_rho)
    f = schedule.factors(np.array([rho], np.float32), 0, 1)
    assert ((f.sample >= 0) & (f.sample <= 1)).all() and 0 <= f.gradient <= 1 and 0 <= f.update <= 1


def test_rho_outside_the_unit_interval_is_refused_while_gap_acts():
    for bad in (1.5, np.nan):
        with pytest.raises(EpisodeError, match="rho"):
            AdjustmentSchedule().factors(np.array([[bad]], np.float32), 3, 10)
        AdjustmentSchedule().factors(np.array([[bad]], np.float32), 5, 10)


@pytest.mark.parametrize("window", [0.0, 0.07, 1 / 3, 1.0])
def test_the_number_of_active_steps_is_known_without_counting_them(window):
    schedule = AdjustmentSchedule(window=window)
    for total in (1, 2, 3, 7, 100):
        assert schedule.active_steps(total) == sum(schedule.active(step, total) for step in range(total))
        assert abs(schedule.active_steps(total) - window * total) < 1
    assert AdjustmentSchedule(mode="none", window=window).active_steps(100) == 0
