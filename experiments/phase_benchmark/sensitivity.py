"""What the quality of our change points and of ρ depends on, and how wide ρ is, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.phase_benchmark.finders import ours
from experiments.phase_benchmark.motions import ExpertMotion, at_rate, with_noise
from experiments.phase_benchmark.scores import boundary_scores
from experiments.phase_benchmark.study import area, fitted, halves
from gap_vla.core.outputs import writing
from gap_vla.drawing.episode import EpisodeView, Plot, draw_plot
from gap_vla.drawing.figures import figure_with
from gap_vla.phases.methods import Options, resolved, segment_points
from gap_vla.phases.targets import soft_targets

PENALTIES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
ALPHAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
BETAS = (0.0, 2e-3, 2e-2, 0.1, 0.3, 1.0)
RESTS = (0.0, 0.1, 0.25, 0.5, 1.0)
MIN_SIZES = (1, 2, 3, 4, 5, 6, 8)
STROKES = {"off": 0.0, "on": None}
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
RATES = (5.0, 10.0, 20.0, 30.0, 50.0)
DEMOS = (1, 2, 4, 8)
SHOWN = ("assembly", "threading")
"""Tasks of which a recording is drawn."""


def sensitivity(tasks: Mapping[str, Sequence[ExpertMotion]], seed: int = 0) -> dict[str, Any]:
    """F1@5 over the tasks as one thing changes and all else keeps its default.

    Returns:
        {what: {value: {"mean": float, "tasks": {task: float}}}} for penalty, alpha, beta, rest, min_size,
        strokes; noise (mm and degrees), once with smoothing and dead-bands that follow the data and once without; rate
        (Hz; tolerance scaled with the rate from 5 steps at the recording's own rate, at least 1).
    """
    out: dict[str, Any] = {
        "penalty": {p: _over(tasks, lambda r, p=p: _f1(r, 5, p)) for p in PENALTIES},
        "alpha": {a: _over(tasks, lambda r, a=a: _f1(r, 5, 0.0, alpha=a)) for a in ALPHAS},
        "beta": {b: _over(tasks, lambda r, b=b: _f1(r, 5, 0.0, beta=b)) for b in BETAS},
        "rest": {v: _over(tasks, lambda r, v=v: _f1(r, 5, 0.0, rest=v)) for v in RESTS},
        "min_size": {v: _over(tasks, lambda r, v=v: _f1(r, 5, 0.0, min_size=v)) for v in MIN_SIZES},
        "strokes": {name: _over(tasks, lambda r, v=v: _f1(r, 5, 0.0, stroke=v)) for name, v in STROKES.items()},
    }
    noisy = {
        s: {
            t: [with_noise(r, s, np.random.default_rng((seed, i))) for i, r in enumerate(rs)] for t, rs in tasks.items()
        }
        for s in NOISES
    }
    out["noise"] = {s: _over(noisy[s], lambda r: _f1(r, 5, 0.0)) for s in NOISES}
    plain = {"smooth": 1, "dead_band": (1e-6, 1e-5, 1e-6, 1e-6)}
    out["noise, no smoothing, no dead-band"] = {s: _over(noisy[s], lambda r: _f1(r, 5, 0.0, **plain)) for s in NOISES}
    out["rate"] = {hz: _over(tasks, lambda r, hz=hz: _at_rate(r, hz)) for hz in RATES}
    return out


def by_demonstrations(tasks: Mapping[str, Sequence[ExpertMotion]]) -> dict[int, Any]:
    """AUPRC of ρ by the number of recordings that the LSTM is trained on: {number: {"mean", "tasks"}}.

    Numbers of which there are not as many in every task's half for training are left out.
    """
    most = min(len(halves(recordings)[0]) for recordings in tasks.values())
    return {n: _over(tasks, lambda r, n=n: _rho_from(r, n)) for n in DEMOS if n <= most}


def _over(tasks: Mapping[str, Sequence[ExpertMotion]], score: Any) -> dict[str, Any]:
    each = {task: float(score(recordings)) for task, recordings in tasks.items()}
    return {"mean": float(np.mean(list(each.values()))), "tasks": each}


def _f1(recordings: Sequence[ExpertMotion], tolerance: float | int, penalty: float | int, **options: Any) -> float:
    found = ours([r.motion for r in recordings], penalty, **options)
    return boundary_scores(found, [r.switches for r in recordings], tolerance)["f1"]


def _at_rate(recordings: Sequence[ExpertMotion], hz: float | int) -> float:
    tolerance = max(1.0, 5 * hz / recordings[0].hz)
    return _f1([at_rate(r, hz) for r in recordings], tolerance, 0.0)


def _rho_from(recordings: Sequence[ExpertMotion], number: int) -> float:
    train, test = halves(recordings)
    estimator = fitted(train[:number], lookahead=2)
    return area([estimator.predict(r.motion) for r in test], test)


def widths(tasks: Mapping[str, Sequence[ExpertMotion]], variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """ρ of the first recording of the test half, the LSTM trained on the other half.

    Returns:
        {task: {"change_points", "switches", "rho": {variant: values}}} for the tasks of `SHOWN` that are there; the
        last variant is bumps of σ 4 around the change points, without LSTM.
    """
    out = {}
    for task in SHOWN:
        if task not in tasks:
            continue
        train, test = halves(tasks[task])
        motion = test[0].motion
        points = segment_points(motion, None, resolved(Options(), [r.motion for r in train]))
        rho = {name: fitted(train, **settings).predict(motion) for name, settings in variants.items()}
        rho["bumps, σ 4"] = soft_targets(points, len(motion), Options().sigma)
        out[task] = {
            "change_points": points.tolist(),
            "switches": test[0].switches.tolist(),
            "rho": {name: np.round(values, 4).astype(float).tolist() for name, values in rho.items()},
        }
    return out


def draw_widths(found: Mapping[str, Any], path: Path) -> Path:
    """One column per task, one row per variant; red: change points, dashed: true switches."""
    names = list(next(iter(found.values()))["rho"])
    figure, axes = figure_with(11, 1.15 * len(names) + 0.6, len(found), len(names), sharex="col", sharey=True)
    for column, (task, one) in enumerate(found.items()):
        for row, name in enumerate(names):
            panel, values = axes[row, column], np.array(one["rho"][name])
            phases = np.searchsorted(one["switches"], np.arange(len(values)), side="right")
            view = EpisodeView(task, len(values), change_points=np.array(one["change_points"]), phases=phases)
            draw_plot(panel, Plot("ρ", {name: values}), view)
            panel.tick_params(labelsize=7)
            panel.set_title(f"{task}: {name}, mean {np.mean(values):.2f}", fontsize=8, loc="left", pad=3)
    for panel in axes[-1]:
        panel.set_xlabel("step", fontsize=8)
    with writing(path, "phase_benchmark") as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path
