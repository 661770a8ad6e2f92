"""Claims about the intervals and the paired comparison."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gap_vla.rollouts import EvaluationError, clopper_pearson, mcnemar, paired_difference, wilson
from gap_vla.rollouts.statistics import mean_rate
from gap_vla.rollouts.summary import summarize

counts = st.integers(0, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@functools.cache
def intervals(interval, n):
    return np.array([interval(successes, n) for successes in range(n + 1)])


def coverage(interval, p, n):
    low, high = intervals(interval, n).T
    return float(stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum())


@given(counts)
def test_intervals_hold_the_observed_rate_and_stay_in_the_unit_interval(count):
    successes, n = count
    for interval in (wilson, clopper_pearson):
        low, high = interval(successes, n)
        assert 0 <= low <= (successes / n if n else 0.5) <= high <= 1


@pytest.mark.parametrize("n", [10, 60, 100])
def test_clopper_pearson_never_covers_less_than_it_says(n):
    assert min(coverage(clopper_pearson, p, n) for p in np.linspace(0.01, 0.99, 99)) >= 0.95


@pytest.mark.parametrize("n", [20, 60, 100])
def test_wilson_covers_as_often_as_it_says_on_average(n):
    assert np.mean([coverage(wilson, p, n) for p in np.linspace(0.02, 0.98, 97)]) == pytest.approx(0.95, abs=0.01)


def test_wilson_agrees_with_scipy():
    expected = stats.binomtest(7, 30).proportion_ci(method="wilson")
    assert wilson(7, 30) == pytest.approx((expected.low, expected.high))


def test_counts_of_small_whole_numbers_do_not_overflow():
    assert wilson(np.uint8(100), np.uint8(200)) == wilson(100, 200)
    assert clopper_pearson(np.uint8(0), np.uint8(255)) == clopper_pearson(0, 255)
    assert mean_rate([(np.uint8(100), np.uint8(200))] * 3) == mean_rate([(100, 200)] * 3)


@pytest.mark.parametrize("arguments", [(5, 4), (-1, 4), (0, -1)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError, match="successes"):
        wilson(*arguments)


def test_mcnemar_counts_discordant_pairs_only():
    a, b = np.array([1, 1, 1, 1, 1, 1, 0] + [1] * 50), np.array([0] * 7 + [1] * 50)
    assert mcnemar(a, b) == pytest.approx(2 * 0.5**6)
    assert mcnemar(a, a) == 1.0


def test_pairing_sees_a_difference_that_unpaired_intervals_cannot():
    rng = np.random.default_rng(0)
    b = rng.random(100) < 0.5
    a = b.copy()
    a[np.flatnonzero(~b)[:12]] = True
    found = paired_difference(a, b)
    assert found.interval[0] > 0
    assert found.p_mcnemar < 0.01
    assert wilson(int(a.sum()), 100)[0] < wilson(int(b.sum()), 100)[1]


@pytest.mark.parametrize("layouts", [1, 50])
def test_layouts_that_all_agree_leave_open_what_none_of_as_many_does(layouts):
    same = np.ones(layouts, bool)
    low, high = paired_difference(same, same).interval
    assert high == pytest.approx(wilson(0, layouts)[1]) and low == -high
    low, high = paired_difference(same, ~same).interval
    assert low == pytest.approx(1 - wilson(0, layouts)[1]) and high == 1.0


def test_swapping_the_methods_changes_only_the_sign():
    rng = np.random.default_rng(1)
    a, b = rng.random((3, 40)) < 0.7, rng.random((3, 40)) < 0.5
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.difference == -backward.difference
    assert forward.interval == pytest.approx(tuple(-x for x in reversed(backward.interval)), abs=0.02)


def test_spread_between_seeds_widens_the_interval():
    layouts = np.arange(100)
    calm = np.stack([layouts < 60] * 4)
    wild = np.stack([layouts < k for k in (20, 45, 75, 100)])
    reference = np.stack([layouts < 50] * 4)
    width = [np.ptp(paired_difference(a, reference).interval) for a in (calm, wild)]
    assert width[1] > 2 * width[0]


def experiment(rng, seeds, spread, truth=0.0, layouts=50):
    """Outcomes of two methods whose success differs by `truth`, with effects of seed and of layout."""
    layout, seed = rng.uniform(-0.2, 0.2, layouts), rng.normal(0, spread, (2, seeds, 1))
    return [rng.random((seeds, layouts)) < 0.5 + shift + layout + s for shift, s in zip((truth, 0), seed)]


@pytest.mark.parametrize(
    ("seeds", "spread", "truth", "least", "most"),
    [
        (1, 0.0, 0.1, 0.92, 0.97),
        pytest.param(2, 0.09, 0.0, 0.93, 0.99, marks=pytest.mark.slow),
        (3, 0.09, 0.0, 0.93, 0.98),  # where a bootstrap alone finds differences that are not there, in 8 to 10 of 100
        pytest.param(3, 0.09, 0.1, 0.93, 0.98, marks=pytest.mark.slow),
        pytest.param(6, 0.09, 0.1, 0.94, 0.99, marks=pytest.mark.slow),
        (3, 0.0, 0.0, 0.97, 1.0),  # wider than needed where seeds do not differ: rows and columns both count the noise
    ],
)
def test_the_interval_covers_the_true_difference_as_often_as_it_says(seeds, spread, truth, least, most):
    """In 400 experiments, and it errs as often to either side; `spread` is the standard deviation between seeds."""
    rng = np.random.default_rng(3)
    found = [paired_difference(*experiment(rng, seeds, spread, truth), draws=300).interval for _ in range(400)]
    above, below = sum(low > truth for low, _ in found), sum(high < truth for _, high in found)
    assert least <= 1 - (above + below) / 400 <= most
    assert abs(above - below) <= 4 * np.sqrt(above + below + 1)
    assert np.median([high - low for low, high in found]) < (2.0 if seeds == 2 else 1.0)


def test_one_seed_that_stands_out_leaves_the_question_open():
    gains = [[1] * wins + [0] * (100 - wins) for wins in (18, 2, 5)]
    found = paired_difference(np.array(gains), np.zeros((3, 100)))
    assert found.interval == pytest.approx((-0.128, 0.295), abs=2e-3)


def test_seeds_that_agree_by_chance_do_not_make_an_interval_of_no_width():
    alike = np.tile(np.arange(100) < 60, (3, 1))
    low, high = paired_difference(alike, np.tile(np.arange(100) < 50, (3, 1))).interval
    assert low < 0.06 and high > 0.14


def test_a_rate_over_seeds_reaches_as_far_as_its_seeds_and_its_rollouts_say():
    low, high = mean_rate([(50, 100)] * 3)
    assert (low, high) == pytest.approx(wilson(150, 300))
    assert mean_rate([(7, 30)]) == wilson(7, 30)
    low, high = mean_rate([(40, 100), (60, 100)])
    assert (low, high) == (0.0, 1.0), "two seeds 20 points apart say nothing"


def test_unequal_and_impossible_shapes_are_refused():
    for first, second in (((2, 5), (2, 6)), ((1, 5), (5,)), ((5,), (1, 5)), ((), ())):
        with pytest.raises(ValueError, match="shapes"):
            paired_difference(np.ones(first), np.ones(second))
    with pytest.raises(ValueError, match="all must be 0 or 1, none masked"):
        paired_difference(np.ma.masked_array([1, 1], [0, 1]), np.zeros(2))


def test_lines_of_episodes_are_no_records():
    with pytest.raises(EvaluationError, match=r"a record is .*; give EpisodeRecord, as read_episodes does"):
        summarize([{"episode": 0}])
