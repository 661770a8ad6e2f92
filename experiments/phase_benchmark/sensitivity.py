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
from gap_vla.drawing.episode import EpisodeView, Plot, draw_plot
from gap_vla.drawing.figures import figure_with, save_picture
from gap_vla.phases.methods import Options, resolved, segment_points
from gap_vla.phases.targets import soft_targets

GRIDS: dict[str, tuple[float, ...]] = {
    "penalty": (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
    "alpha": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    "beta": (0.0, 2e-3, 2e-2, 0.1, 0.3, 1.0),
    "rest": (0.0, 0.1, 0.25, 0.5, 1.0),
    "min_size": (1, 2, 3, 4, 5, 6, 8),
}
STROKES = {"off": 0.0, "on": None}
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
RATES = (5.0, 10.0, 20.0, 30.0, 50.0)
DEMOS = (1, 2, 4, 8)
SHOWN = ("assembly", "threading")
"""Tasks of which a recording is drawn."""


def sensitivity(tasks: Mapping[str, Sequence[ExpertMotion]]) -> dict[str, Any]:
    """F1@5 over the tasks as one thing changes and all else keeps its default.

    Returns:
        {what: {value: {"mean": float, "tasks": {task: float}}}} for penalty, alpha, beta, rest, min_size,
        strokes; noise (mm and degrees), once with smoothing and dead-bands that follow the data and once without; rate
        (Hz; tolerance scaled with the rate from 5 steps at the recording's own rate, at least 1).
    """
    out: dict[str, Any] = {
        what: {value: _over(tasks, lambda r, one={what: value}: _f1(r, 5, **one)) for value in values}
        for what, values in GRIDS.items()
    }
    out["strokes"] = {name: _over(tasks, lambda r, v=v: _f1(r, 5, stroke=v)) for name, v in STROKES.items()}
    out["noise"], out["noise, no smoothing, no dead-band"] = {}, {}
    plain: dict[str, Any] = {"smooth": 1, "dead_band": (1e-6, 1e-5, 1e-6, 1e-6)}
    for s in NOISES:
        draws = {t: [(r, np.random.default_rng((0, i))) for i, r in enumerate(rs)] for t, rs in tasks.items()}
        noisy = {task: [with_noise(r, s, rng) for r, rng in of_task] for task, of_task in draws.items()}
        out["noise"][s] = _over(noisy, lambda r: _f1(r, 5))
        out["noise, no smoothing, no dead-band"][s] = _over(noisy, lambda r: _f1(r, 5, **plain))
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


def _f1(recordings: Sequence[ExpertMotion], tolerance: float, penalty: float = 0.0, **options: Any) -> float:
    found = ours([r.motion for r in recordings], penalty, **options)
    return boundary_scores(found, [r.switches for r in recordings], tolerance)["f1"]


def _at_rate(recordings: Sequence[ExpertMotion], hz: float | int) -> float:
    return _f1([at_rate(r, hz) for r in recordings], max(1.0, 5 * hz / recordings[0].hz))


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


def draw_widths(found: Mapping[str, Any], folder: Path) -> Path:
    """Writes phases_width.png: one column per task, one row per variant; red: change points, dashed: true switches."""
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
    path = folder / "phases_width.png"
    save_picture(figure, path, dpi=110)
    return path
