"""The benchmark's own parts: recordings under noise and at other rates, and its bookkeeping."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import ruptures

from experiments.phase_benchmark.command import STAGES
from experiments.phase_benchmark.finders import FINDERS, Finder, step_signal, with_ruptures
from experiments.phase_benchmark.joints import WAYS
from experiments.phase_benchmark.motions import ExpertMotion, at_rate, true_switches, with_noise, with_phase
from experiments.phase_benchmark.rates import repeated, score, with_pauses
from experiments.phase_benchmark.scores import boundary_scores, match_boundaries
from experiments.phase_benchmark.study import GRIDS, compare, sensitivity, widths
from experiments.phase_benchmark.tables import against_the_best, mean_difference, over_the_tasks, write
from experiments.phase_benchmark.tuning import EXTENSIONS, cosine, ratio, tune, whole
from gap_vla.demos.kinematics import Chain
from gap_vla.phases import Motion
from gap_vla.phases.motion import steps_of
from gap_vla.phases.noise import noise_level


def corners(seed, legs=4, leg=20):
    rng = np.random.default_rng(seed)
    heading = np.repeat(np.linalg.qr(rng.normal(size=(3, 3)))[0][np.arange(legs) % 3], leg, axis=0)
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(0.01 * heading, axis=0)[:-1]])
    angle = np.linspace(0, 1.5, legs * leg) / 2
    turn = np.stack([np.cos(angle), np.zeros_like(angle), np.zeros_like(angle), np.sin(angle)], axis=1)
    return ExpertMotion(Motion.of(path, turn, np.zeros((legs * leg, 1))), np.arange(leg, legs * leg, leg), 20.0)


def test_short_phases_belong_to_the_one_before():
    assert true_switches(np.array(list("aaaaabbcccccddddd"))).tolist() == [5, 12]


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_noise_is_what_it_says(sigma):
    noisy = with_noise(corners(0, legs=30), sigma, np.random.default_rng(0)).motion
    steps = steps_of(noisy)
    assert noise_level(steps.position) == pytest.approx(sigma / 1000, rel=0.15)
    assert noise_level(steps.rotation) == pytest.approx(np.deg2rad(sigma), rel=0.15)


@pytest.mark.parametrize("hz", [5.0, 10.0, 40.0])
def test_other_rates_move_the_switches_with_the_motion(hz):
    slow = at_rate(corners(0), hz)
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


@pytest.mark.parametrize("best", [0.02, 3.0, 700.0])
def test_a_grid_grows_until_the_best_value_lies_inside_of_it(best):
    asked = []
    chosen = tune(lambda v: asked.append(v) or -abs(np.log(v / best)), (1.0, 2.0, 4.0), ratio(2.0), refine=True)
    assert chosen.low < chosen.value < chosen.high and not chosen.range_ends
    assert chosen.value == pytest.approx(best, rel=0.2) and len(asked) == len(set(asked)) <= 3 + EXTENSIONS + 2


def test_a_grid_ends_where_its_parameter_does_and_says_so_and_never_grows_forever():
    assert tune(lambda v: -v, (3.0, 4.0), whole(1, lambda v: 1), refine=False) == (1.0, -1.0, 1.0, 4.0, True)
    endless = tune(lambda v: v, (1.0, 2.0), ratio(2.0), refine=True)
    assert endless.value == 2.0 ** (1 + EXTENSIONS) == endless.high and not endless.range_ends
    assert -1 < tune(lambda v: -v, (0.0, 0.5), cosine, refine=False).value < -0.999
    flat = tune(lambda v: min(v, 2.0), (1.0, 2.0, 4.0), ratio(2.0), refine=True)
    assert flat.low < flat.value < flat.high, "of equally good values the middle one"


def test_repeats_and_pauses_move_the_switches_with_the_motion():
    assert repeated(corners(0)).switches.tolist() == [60, 120, 180]
    paused = with_pauses(corners(0))
    assert paused.switches.tolist() == [20, 40, 60, 80, 100, 119] and len(paused.motion) == 80 + 3 * 20
    scores = score([repeated(corners(seed)) for seed in range(4)])
    assert scores["f1"] == 1.0 and scores["marks"] > 0.9


def test_joints_are_read_as_poses_by_kinematics_or_as_they_are():
    joints = [np.random.default_rng(0).uniform(-1, 1, (9, 7)) for _ in range(2)]
    recorded = Motion.of(np.zeros((9, 6)), gripper=np.zeros((9, 2)))
    made = {way: make(recorded, joints, "panda") for way, make in WAYS.items()}
    assert {(motion.arms, motion.joints) for motion in made.values()} == {(2, 0), (2, 7)}
    placed, _ = Chain.named("panda").pose(joints[1])
    np.testing.assert_array_equal(made["joints, by the robot's kinematics"].position[:, 3:], placed)


@pytest.mark.parametrize("file", ["finders", "untouched"])
def test_no_published_rival_was_tuned_on_the_edge_of_what_was_tried(file):
    path = Path(__file__).parents[2] / "results" / "phases" / f"{file}.json"
    found = json.loads(path.read_text())["results"]
    comparisons = {"all": found} if file == "finders" else {name: part["results"] for name, part in found.items()}
    lines = 0
    for name, finders in comparisons.items():
        for finder, scores in finders.items():
            for task, one in scores["tasks"].items():
                low, high = one["tried"]
                assert low < one["value"] < high or one["range_ends"], (name, finder, task)
                lines += 1
    assert lines >= 9 * 15


def test_the_published_results_give_the_published_tables_and_pictures(tmp_path):
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


def test_the_phase_of_a_foreign_policy_is_the_branch_that_decided():
    class Policy:
        def get_action(self, seen):
            return np.array([self._desired_pos(seen), self._grab_effort(seen)])

        def _desired_pos(self, seen):
            if seen < 3:
                return 0.0
            return 0.0  # the same goal, decided elsewhere

        def _grab_effort(self, seen):
            if seen < 5:
                return -1.0
            return 1.0

    actions, phases = zip(*(with_phase(Policy(), np.array(seen)) for seen in range(7)))
    assert [bool(a != b) for a, b in itertools.pairwise(phases)] == [False, False, True, False, True, False]
    assert [action[1] for action in actions] == [-1] * 5 + [1] * 2
    assert sys.gettrace() is None or "coverage" in sys.modules


def test_rho_is_kept_of_a_recording_for_every_variant():
    found = widths({"corners": [corners(seed) for seed in range(4)]}, {"M5": {"updates": 2}})["corners"]
    assert found["change_points"] == [20, 40, 60]
    assert {name: len(values) for name, values in found["rho"].items()} == {"M5": 80, "bumps, σ 4": 80}


def test_one_thing_at_a_time_is_varied():
    found = sensitivity({"corners": [corners(seed) for seed in range(2)]})
    assert list(found["alpha"]) == list(GRIDS["alpha"]) and found["strokes"]["on"]["mean"] == 1.0
    assert found["noise"][0.0]["tasks"]["corners"] == 1.0 > found["noise, no smoothing, no dead-band"][5.0]["mean"]


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


def test_the_best_rival_is_none_of_our_own_lines():
    def line(matched):
        return {"tasks": {"a": {"f1@5": matched / 4, "counts@5": f"{matched}/4/4 " * 3}}}

    finders = {"ours, defaults": line(3), "ours before": line(4), "paper's M2": line(4)}
    finders |= {"uniform": line(1), "speed": line(2)}
    beside = ["speed", "0.50", "+0.25 (+0.25 to +0.25)", "1.00", "−0.25 (−0.25 to −0.25)"]
    assert against_the_best(finders) == [["a", "0.75", *beside]]


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


def test_a_boundary_that_is_found_exactly_has_no_timing_error():
    assert boundary_scores([np.array([24, 30, 60])], [np.array([30, 60])], 10)["timing_error"] == 0


def test_scores_count_each_boundary_once():
    scores = boundary_scores([np.array([10, 11, 12])], [np.array([11])], 2)
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == 1
    assert boundary_scores([np.zeros(0)], [np.zeros(0)], 2)["f1"] == 1
