"""Claims about the intervals, the paired comparison and the figures of an evaluation."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from gap_vla.rollouts.records import EpisodeRecord, summarize
from gap_vla.rollouts.statistics import mcnemar, mean_rate, over_seeds, paired_difference, wilson

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "evaluation" / "figures.json").read_text())
"""What version 0.2 computed."""


def alike(found, golden):
    """Equal to 1e-12, wherever there are numbers."""
    if isinstance(golden, dict):
        return found.keys() == golden.keys() and all(alike(found[key], golden[key]) for key in golden)
    if isinstance(golden, list):
        return len(found) == len(golden) and all(map(alike, found, golden))
    return found == pytest.approx(golden, abs=1e-12) if isinstance(golden, float) else found == golden


def test_intervals_are_those_of_version_0_2():
    assert all(alike(wilson(*count), golden) for count, golden in GOLDEN["wilson"])


def test_figures_over_seeds_are_those_of_version_0_2():
    assert all(alike(mean_rate(counts), golden) for counts, golden in GOLDEN["mean_rate"])
    assert all(alike(over_seeds(seeds, tuple(within)), golden) for seeds, within, golden in GOLDEN["over_seeds"])
    for case in GOLDEN["paired_difference"]:
        rng = np.random.default_rng(case["seed"])
        a, b = (rng.random(case["shape"]) < share for share in (0.7, 0.5))
        assert alike({**case, **dataclasses.asdict(paired_difference(a, b))}, case)
    same = np.ones((3, 10), bool)
    assert alike(dataclasses.asdict(paired_difference(same, same)), GOLDEN["paired_equal"])
    first, second = np.array([1] * 9 + [0] * 21), np.array([0] * 8 + [1] * 4 + [0] * 18)
    assert alike(mcnemar(first, second), GOLDEN["mcnemar"])


def test_the_figures_of_an_evaluation_are_those_of_version_0_2():
    errors = {4: "step 14: the simulator failed: x"}
    records = [
        EpisodeRecord(n, 100 + n, n % 3 == 0, 10 + n, ["reach", "grasp"][n % 2], errors.get(n)) for n in range(7)
    ]
    found = summarize(records, ("reach", "grasp", "lift"))
    assert alike(found, {key: GOLDEN["summary"][key] for key in found})


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
        pytest.param(3, 0.0, 0.0, 0.97, 1.0, marks=pytest.mark.slow),  # rows and columns both count the noise
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


def test_seeds_that_agree_by_chance_do_not_make_an_interval_of_no_width():
    together = np.tile(np.arange(100) < 60, (3, 1))
    low, high = paired_difference(together, np.tile(np.arange(100) < 50, (3, 1))).interval
    assert low < 0.06 and high > 0.14


def test_a_rate_over_seeds_reaches_as_far_as_its_seeds_and_its_rollouts_say():
    assert mean_rate([(50, 100)] * 3) == pytest.approx(wilson(150, 300))
    assert mean_rate([(7, 30)]) == wilson(7, 30)
    assert mean_rate([(40, 100), (60, 100)]) == (0.0, 1.0), "two seeds 20 points apart say nothing"
