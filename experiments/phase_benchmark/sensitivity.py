"""What the quality of our change points and of ρ depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.phase_benchmark.finders import ours
from experiments.phase_benchmark.recordings import Recording, at_rate, with_noise
from experiments.phase_benchmark.study import area, fitted, halves
from gap_vla.phases.measures import boundary_scores

PENALTIES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
ALPHAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
BETAS = (0.0, 2e-3, 2e-2, 0.1, 0.3, 1.0)
RESTS = (0.0, 0.1, 0.25, 0.5, 1.0)
MIN_SIZES = (1, 2, 3, 4, 5, 6, 8)
STROKES = {"off": 0.0, "on": None}
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
RATES = (5.0, 10.0, 20.0, 30.0, 50.0)
DEMOS = (1, 2, 4, 8)


def sensitivity(tasks: Mapping[str, Sequence[Recording]], seed: int = 0) -> dict[str, Any]:
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


def by_demonstrations(tasks: Mapping[str, Sequence[Recording]]) -> dict[int, Any]:
    """AUPRC of ρ by the number of recordings that the LSTM is trained on: {number: {"mean", "tasks"}}."""
    return {n: _over(tasks, lambda r, n=n: _rho_from(r, n)) for n in DEMOS}


def _over(tasks: Mapping[str, Sequence[Recording]], score: Any) -> dict[str, Any]:
    each = {task: float(score(recordings)) for task, recordings in tasks.items()}
    return {"mean": float(np.mean(list(each.values()))), "tasks": each}


def _f1(recordings: Sequence[Recording], tolerance: float | int, penalty: float | int, **options: Any) -> float:
    found = ours([r.motion for r in recordings], penalty, **options)
    return boundary_scores(found, [r.switches for r in recordings], tolerance)["f1"]


def _at_rate(recordings: Sequence[Recording], hz: float | int) -> float:
    tolerance = max(1.0, 5 * hz / recordings[0].hz)
    return _f1([at_rate(r, hz) for r in recordings], tolerance, 0.0)


def _rho_from(recordings: Sequence[Recording], number: int) -> float:
    train, test = halves(recordings)
    estimator = fitted(train[:number], lookahead=2)
    return area([estimator.predict(r.motion) for r in test], test)
