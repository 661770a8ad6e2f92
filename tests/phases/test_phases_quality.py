"""The benchmark's own parts: recordings under noise and at other rates, and its bookkeeping."""

import time

import numpy as np
import pytest

from gap_vla.phases import Motion
from gap_vla.phases.motion import noise_level, steps_of
from gap_vla.phases.quality import Recording, compare, sensitivity
from gap_vla.phases.quality.figures import draw, markdown
from gap_vla.phases.quality.finders import FINDERS, Finder
from gap_vla.phases.quality.recordings import at_rate, true_switches, with_noise
from gap_vla.phases.quality.width import draw_widths, widths


def corners(seed, legs=4, leg=20):
    rng = np.random.default_rng(seed)
    heading = np.repeat(np.linalg.qr(rng.normal(size=(3, 3)))[0][np.arange(legs) % 3], leg, axis=0)
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(0.01 * heading, axis=0)[:-1]])
    angle = np.linspace(0, 1.5, legs * leg) / 2
    turn = np.stack([np.cos(angle), np.zeros_like(angle), np.zeros_like(angle), np.sin(angle)], axis=1)
    return Recording(Motion.of(path, turn, np.zeros((legs * leg, 1))), np.arange(leg, legs * leg, leg), 20.0)


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
    tasks = {"corners": [corners(seed) for seed in range(4)]}
    kept = []
    finders = {name: f for name, f in FINDERS.items() if "rbf" not in name}
    results = compare(tasks, finders, keep=lambda so_far: kept.append(list(so_far)))
    assert kept[0] == [next(iter(finders))] and kept[-1] == list(finders)
    assert results["ours, defaults"]["mean"]["f1@2"] == 1.0
    assert results["ours, defaults"]["mean"]["timing_error"] < 0.5
    assert all(0 <= r["mean"]["f1@5"] <= 1 for r in results.values())


def test_a_finder_that_would_take_too_long_is_skipped_and_named(capsys):
    def slow(motions, parameter):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return [np.array([40]) for _ in motions]

    tasks = {"corners": [corners(seed) for seed in range(2)]}
    assert compare(tasks, {"slow": Finder(slow, (1.0, 2.0))}, most_seconds=0.1) == {}
    assert "slow: skipped, a task would take about" in capsys.readouterr().out


def test_rho_is_drawn_over_a_recording_for_every_variant(tmp_path):
    tasks = {"assembly": [corners(seed) for seed in range(4)], "elsewhere": []}
    found = widths(tasks, {"M5": {"epochs": 1}, "spread": {"epochs": 1, "spread": 3.0}})
    assert list(found) == ["assembly"] and found["assembly"]["change_points"] == [20, 40, 60]
    assert {name: len(values) for name, values in found["assembly"]["rho"].items()} == {
        "M5": 80,
        "spread": 80,
        "bumps, σ 4": 80,
    }
    assert draw_widths(found, tmp_path / "width.png").read_bytes()[:4] == b"\x89PNG"


def test_tables_and_figures_hold_every_line(tmp_path):
    tasks = {"corners": [corners(seed) for seed in range(2)]}
    one = {"mean": 0.5, "tasks": {"corners": 0.5}}
    rho = {"auprc": 0.5, "rho_mean": 0.1, "rho_width": 2.0, "held_out_loss": 0.3, "calibration": 0.01}
    results = {
        "finders": {
            "recordings": {"corners": 2},
            "results": compare(tasks, {"ours, defaults": FINDERS["ours, defaults"]}),
        },
        "rho": {"results": {"lstm": {"mean": rho, "tasks": {"corners": rho}}}},
        "sensitivity": {"results": sensitivity(tasks)},
        "demonstrations": {"results": {1: one, 2: one}},
    }
    text = markdown(results)
    assert "| ours, defaults |" in text and "**noise, no smoothing, no dead-band**" in text and "**demos**" in text
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in draw(results, tmp_path))
