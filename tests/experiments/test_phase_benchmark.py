"""The benchmark's own parts: recordings under noise and at other rates, and its bookkeeping."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import ruptures

from experiments.phase_benchmark.command import STAGES
from experiments.phase_benchmark.finders import FINDERS, Finder, step_signal, with_ruptures
from experiments.phase_benchmark.motions import ExpertMotion, at_rate, with_noise
from experiments.phase_benchmark.scores import match_boundaries
from experiments.phase_benchmark.study import compare
from experiments.phase_benchmark.tables import mean_difference, over_the_tasks, write
from gap_vla.phases import Motion


def corners(seed, legs=4, leg=20):
    rng = np.random.default_rng(seed)
    heading = np.repeat(np.linalg.qr(rng.normal(size=(3, 3)))[0][np.arange(legs) % 3], leg, axis=0)
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(0.01 * heading, axis=0)[:-1]])
    angle = np.linspace(0, 1.5, legs * leg) / 2
    turn = np.stack([np.cos(angle), np.zeros_like(angle), np.zeros_like(angle), np.sin(angle)], axis=1)
    return ExpertMotion(Motion.of(path, turn, np.zeros((legs * leg, 1))), np.arange(leg, legs * leg, leg), 20.0)


def test_other_rates_move_the_switches_with_the_motion():
    slow = at_rate(corners(0), hz := 10.0)
    assert slow.hz == hz
    np.testing.assert_array_equal(slow.switches, (np.array([20, 40, 60]) * hz / 20).astype(int))
    np.testing.assert_allclose(slow.motion.position[int(hz)], corners(0).motion.position[20], atol=1e-9)


def test_every_finder_runs_and_ours_finds_clean_corners():
    tasks = {"corners": [corners(seed) for seed in range(2)]}
    finders = {name: f for name, f in FINDERS.items() if "rbf" not in name}
    results = compare(tasks, finders)
    assert results["ours, defaults"]["mean"]["f1@2"] == 1.0
    assert results["ours, defaults"]["mean"]["timing_error"] < 0.5
    exact = [name for name in finders if name.endswith((" l2", " normal")) or name in ("CoTPC key states", "uniform")]
    assert len(exact) == 8 and all(results[name]["mean"]["f1@2"] == 1.0 for name in exact)
    assert results["HDBSCAN"]["mean"]["f1@5"] == 1.0
    blind = ("speed threshold", "ruptures Pelt ar")  # to corners that are taken at constant speed
    assert all(results[name]["mean"]["f1@5"] == 0.0 for name in blind)


def test_every_finder_is_tuned_on_one_half_and_scored_on_the_other():
    recordings = [corners(seed) for seed in range(6)]
    train, asked = [recording.motion for recording in recordings[::2]], []

    def find(motions, parameter):
        asked.append(parameter)
        learning = any(motion is known for motion in motions for known in train)
        right = parameter == (2.0 if learning else 3.0)  # on the other half another value would be best
        return [np.array([20, 40, 60]) if right else np.array([10]) for _ in motions]

    scores = compare({"corners": recordings}, {"chosen": Finder(find, (1.0, 2.0, 3.0))})["chosen"]["tasks"]["corners"]
    assert {1.0, 2.0, 3.0} <= set(asked)
    assert scores["value"] == 2.0 and scores["f1@5"] == 0.0 and scores["counts@5"] == "0/1/3 0/1/3 0/1/3"


def test_the_published_results_give_the_published_tables_and_pictures(tmp_path, blank_charts):
    root = Path(__file__).parents[2] / "results" / "phases"
    files = {stage: file for stage in STAGES if (file := root / f"{stage}.json").exists()}
    tables, *pictures = write(files, tmp_path, tmp_path)
    assert tables.read_text() == (root / "tables.md").read_text()
    assert all(picture.read_bytes()[:4] == b"\x89PNG" for picture in pictures)


@pytest.mark.parametrize("model", ["l2", "rbf", "normal"])
def test_what_is_remembered_of_a_stock_cost_is_what_ruptures_finds(model):
    motion = with_noise(corners(0), 1.0, np.random.default_rng(0)).motion
    find = with_ruptures("Pelt", model)
    for penalty in (2.0, 50.0):
        stock = ruptures.Pelt(model=model, min_size=3, jump=1).fit(step_signal(motion)).predict(pen=penalty)
        assert find([motion], penalty)[0].tolist() == find([motion], penalty)[0].tolist() == stock[:-1]


def test_the_mean_over_tasks_is_paired_within_each_task():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        pairs = [(rng.binomial(5, share, 12), rng.binomial(5, share - 0.2, 12)) for share in (0.5, 0.7, 0.9)]
        counts = [tuple(np.stack([hits, *np.full((2, 12), 5)], 1) for hits in pair) for pair in pairs]
        _, low, high = mean_difference(counts, seed=trial, resamples=500)
        covered += low <= 0.2 <= high
    assert 50 <= covered <= 59
    assert mean_difference([(counts[0][0], counts[0][0])]) == (0, 0, 0)


def test_the_best_rival_of_each_task_is_chosen_on_either_half():
    def line(tuning, matched):
        task = {"f1@5": matched / 4, "tuning_f1@5": tuning, "counts@5": f"{matched}/4/4 " * 3}
        return {"tasks": {"a": task, "b": task}}

    finders = {"ours, defaults": line(None, 3), "lucky": line(0.2, 4), "sound": line(0.9, 2)}
    rows = {row[0]: row[1:] for row in over_the_tasks(finders, shown=1)}
    assert rows["lucky"] == ["1.00", "−0.25 (−0.25 to −0.25)"]
    assert rows["best rival of each task, chosen on the tuning half"][0] == "0.50"
    assert rows["best rival of each task, chosen on the test half"][0] == "1.00"


def test_matching_boundaries_is_maximal_and_of_them_the_nearest():
    rng = np.random.default_rng(0)
    for tolerance in 20 * (0, 2, 6):
        found, true = (np.sort(rng.choice(20, rng.integers(0, 5), replace=False)) for _ in range(2))
        matchings = [
            [(f, t) for f, t in zip(some, order) if abs(f - t) <= tolerance]
            for some in itertools.combinations(found, min(len(found), len(true)))
            for order in itertools.permutations(true, len(some))
        ]
        pairs = match_boundaries(found, true, tolerance)
        assert _worth(pairs) == max(map(_worth, matchings))
        assert len({f for f, _ in pairs}) == len({t for _, t in pairs}) == len(pairs)


def _worth(pairs):
    return sum(1000 - abs(f - t) for f, t in pairs)
