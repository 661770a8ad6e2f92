"""What is measured: finders tuned on one half of each task's recordings and scored on the other; ρ; and what the
quality of our change points and of ρ depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from experiments.phase_benchmark.finders import FINDERS, Finder, ours
from experiments.phase_benchmark.motions import (
    METAWORLD,
    ROBOSUITE,
    ExpertMotion,
    at_rate,
    load_motions,
    metaworld_motions,
    robosuite_motions,
    with_noise,
)
from experiments.phase_benchmark.scores import boundary_scores, match_boundaries
from experiments.phase_benchmark.tuning import tune
from gap_vla.phases.estimator import PhaseEstimator
from gap_vla.phases.measures import label_report
from gap_vla.phases.methods import Options, resolved, segment_points
from gap_vla.phases.targets import near_boundaries, soft_targets

Tasks = Mapping[str, Sequence[ExpertMotion]]
"""Name of a task to its recordings."""

TOLERANCES = (2, 5, 10)
BY_TASK = ("value", "tuning_f1@5", "counts@5")
"""Of a line's scores, those that have no mean over the tasks."""

AROUND = 2
"""ρ should be high within this many steps of a true switch (area under the precision-recall curve)."""

FIRST = 5
"""Steps at the start that ρ is not scored on: its first step is a change point by definition (M4)."""

# ---- our tasks, and recordings that nobody looked at while our defaults were chosen

TITLES = {
    "seeds": "our tasks, other seeds",
    "disjoint": "our tasks, positions outside of the default ranges",
    "noise": "our tasks, actions disturbed by 0.25",
    "size": "our tasks, objects 15 % larger",
    "metaworld": "ten other tasks of Meta-World, played by Meta-World's policies",
    "robosuite": "robosuite's Lift and PickPlaceCan, played by a list of goals",
}
"""Every set that nobody tuned on, and what a table calls it."""

SIMULATED: dict[str, dict[str, Any]] = {
    "seeds": {"seed": 1007},
    "disjoint": {"seed": 1008, "variant": "positions_disjoint"},
    "noise": {"seed": 1009, "action_noise": 0.25},
    "size": {"seed": 1010, "variant": "object_size"},
}
"""What is said to `gap_vla.sim.collect_demos`. The variants left out change pictures only."""

OTHERS = {"metaworld": (METAWORLD, metaworld_motions), "robosuite": (ROBOSUITE, robosuite_motions)}
OTHERS_SEED = 1011

COMPARED = {name: f for name, f in FINDERS.items() if not name.startswith("release")}


def our_motions(demos: Path, task: str, episodes: int, **how: Any) -> list[ExpertMotion]:
    """Recordings of the task's expert; collected, without pictures, if `demos` has no file of them."""
    path = demos / f"{task}.hdf5"
    if not path.exists():
        from gap_vla.sim import collect_demos

        collect_demos(task, episodes, path, cameras=(), **how)
    return load_motions(path, episodes)


def untouched(name: str, demos: Path, tasks: Sequence[str], episodes: int) -> dict[str, Any]:
    """Every finder on one set of `TITLES`, so many recordings of each task; of others' experts as many as succeed.

    Returns:
        {"recordings": {task: number}, "results": as of `compare`}.
    """
    if name in SIMULATED:
        found: Tasks = {task: our_motions(demos / name, task, episodes, **SIMULATED[name]) for task in tasks}
    else:
        others, play = OTHERS[name]
        found = {task: play(task, episodes, OTHERS_SEED) for task in others}
    counts = {task: len(recordings) for task, recordings in found.items()}
    print(f"{name}: {sum(counts.values())} recordings of {len(counts)} tasks", flush=True)
    return {"recordings": counts, "results": compare(found, COMPARED)}


# ---- change points


def halves(recordings: Sequence[ExpertMotion]) -> tuple[list[ExpertMotion], list[ExpertMotion]]:
    """Training and test half: every second recording."""
    return list(recordings[::2]), list(recordings[1::2])


def compare(tasks: Tasks, finders: Mapping[str, Finder] = FINDERS) -> dict[str, Any]:
    """Scores every finder on every task.

    Returns:
        {finder: {"tasks": {task: scores}, "mean": scores}}; scores: f1@2, f1@5, f1@10, precision@5, recall@5,
        timing_error (steps, matched within 10), auprc (of bumps around the change points), and by task what `BY_TASK`
        names: value of the tuned parameter, its F1@5 on the training half, and matched/found/true of every test
        recording, such as "4/5/5 5/5/5".
    """
    out: dict[str, Any] = {}
    for name, finder in finders.items():
        out[name] = _over(tasks, _score_finder, finder=finder)
        print(f"{name}: F1@5 {out[name]['mean']['f1@5']:.3f}", flush=True)
    return out


def _over(tasks: Tasks, score: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """`score(recordings, **options)` of each task, one number or several by name, and the mean over the tasks."""
    each = {task: score(recordings, **options) for task, recordings in tasks.items()}
    first, *_ = each.values()
    if not isinstance(first, dict):
        return {"mean": float(np.nanmean(list(each.values()))), "tasks": each}
    means = {key: float(np.nanmean([one[key] for one in each.values()])) for key in first if key not in BY_TASK}
    return {"mean": means, "tasks": each}


def _score_finder(recordings: Sequence[ExpertMotion], finder: Finder) -> dict[str, Any]:
    train, test = halves(recordings)
    motions, true = [r.motion for r in train], [r.switches for r in train]
    value, tuned = finder.grid[0], None
    if len(finder.grid) > 1:

        def score(value: float) -> float:
            return boundary_scores(finder.find(motions, value), true, 5)["f1"]

        value, tuned = tune(score, finder.grid, finder.further, refine=finder.refine)
    true = [r.switches for r in test]
    points = finder.find([r.motion for r in test], value)
    scores = {t: boundary_scores(points, true, t) for t in TOLERANCES}
    bumps = [soft_targets(p, len(r.motion), 2.0) for p, r in zip(points, test)]
    return {
        **{f"f1@{t}": scores[t]["f1"] for t in TOLERANCES},
        "precision@5": scores[5]["precision"],
        "recall@5": scores[5]["recall"],
        "timing_error": scores[10]["timing_error"],
        "auprc": area(bumps, test),
        "value": value,
        "tuning_f1@5": tuned,
        "counts@5": " ".join(f"{len(match_boundaries(p, t, 5))}/{len(p)}/{len(t)}" for p, t in zip(points, true)),
    }


# ---- ρ


def rho_scores(tasks: Tasks, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Area under the precision-recall curve of the LSTM's ρ, trained on one half and scored on the other.

    Args:
        variants: name to settings of `PhaseEstimator`.

    Returns:
        {variant: {"tasks": {task: {"auprc", "rho_mean", "rho_width", "calibration"}}, "mean": {…}}}.
    """
    out: dict[str, Any] = {}
    for name, settings in variants.items():
        out[name] = _over(tasks, _score_rho, **settings)
        print(f"{name}: AUPRC {out[name]['mean']['auprc']:.3f}", flush=True)
    return out


def _score_rho(recordings: Sequence[ExpertMotion], **settings: Any) -> dict[str, float]:
    train, test = halves(recordings)
    estimator = fitted(train, **settings)
    rho = [estimator.predict(r.motion) for r in test]
    options = resolved(Options(), [r.motion for r in train])
    report = label_report(rho, [segment_points(r.motion, None, options) for r in test])
    return {
        "auprc": area(rho, test),
        "rho_mean": report["rho_mean"],
        "rho_width": report["rho_width"],
        "calibration": estimator.report["held_out_calibration"]["error"],
    }


def fitted(train: Sequence[ExpertMotion], **settings: Any) -> PhaseEstimator:
    """The LSTM trained on change points of our segmentation, not on the true switches."""
    motions = [r.motion for r in train]
    return PhaseEstimator(**settings).fit(motions, ours(motions, 0.0))


def area(rho: Sequence[np.ndarray], recordings: Sequence[ExpertMotion]) -> float:
    """Area under the precision-recall curve for "within `AROUND` steps of a true switch"."""
    near = np.concatenate([near_boundaries(r.switches, len(r.motion), AROUND)[FIRST:] for r in recordings])
    if not near.any():
        return float("nan")
    return float(average_precision_score(near, np.concatenate([r[FIRST:] for r in rho])))


# ---- what the quality depends on

GRIDS: dict[str, tuple[float, ...]] = {
    "penalty": (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
    "alpha": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    "beta": (0.0, 2e-3, 2e-2, 0.1, 0.3, 1.0),
    "rest": (0.0, 0.1, 0.25, 0.5, 1.0),
    "min_size": (1, 2, 3, 4, 5, 6, 8),
}
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
RATES = (5.0, 10.0, 20.0, 30.0, 50.0)
DEMOS = (1, 2, 4, 8)
RAW: dict[str, Any] = {"smooth": 1, "dead_band": (1e-6, 1e-5, 1e-6, 1e-6)}
"""No smoothing, no dead-band."""


def sensitivity(tasks: Tasks) -> dict[str, Any]:
    """F1@5 over the tasks as one thing changes and all else keeps its default.

    Returns:
        {what: {value: {"mean": float, "tasks": {task: float}}}} for penalty, alpha, beta, rest, min_size,
        strokes; noise (mm and degrees), once with smoothing and dead-bands that follow the data and once without; rate
        (Hz; tolerance scaled with the rate from 5 steps at the recording's own rate, at least 1).
    """
    out: dict[str, Any] = {}
    for what, values in GRIDS.items():
        out[what] = {value: _over(tasks, _f1, **{what: value}) for value in values}
    out["strokes"] = {"off": _over(tasks, _f1, stroke=0.0), "on": _over(tasks, _f1)}
    noisy = {sigma: {task: _noisy(recordings, sigma) for task, recordings in tasks.items()} for sigma in NOISES}
    out["noise"] = {sigma: _over(noisy[sigma], _f1) for sigma in NOISES}
    out["noise, no smoothing, no dead-band"] = {s: _over(noisy[s], _f1, **RAW) for s in NOISES}
    out["rate"] = {hz: _over(tasks, _at_rate, hz=hz) for hz in RATES}
    return out


def by_demonstrations(tasks: Tasks) -> dict[int, Any]:
    """AUPRC of ρ by the number of recordings that the LSTM is trained on: {number: {"mean", "tasks"}}.

    Numbers of which there are not as many in every task's half for training are left out.
    """
    most = min(len(halves(recordings)[0]) for recordings in tasks.values())
    return {number: _over(tasks, _rho_from, number=number) for number in DEMOS if number <= most}


def _f1(recordings: Sequence[ExpertMotion], tolerance: float = 5.0, penalty: float = 0.0, **options: Any) -> float:
    found = ours([r.motion for r in recordings], penalty, **options)
    return boundary_scores(found, [r.switches for r in recordings], tolerance)["f1"]


def _noisy(recordings: Sequence[ExpertMotion], sigma: float) -> list[ExpertMotion]:
    return [with_noise(r, sigma, np.random.default_rng((0, number))) for number, r in enumerate(recordings)]


def _at_rate(recordings: Sequence[ExpertMotion], hz: float) -> float:
    return _f1([at_rate(r, hz) for r in recordings], max(1.0, 5 * hz / recordings[0].hz))


def _rho_from(recordings: Sequence[ExpertMotion], number: int) -> float:
    train, test = halves(recordings)
    estimator = fitted(train[:number], lookahead=2)
    return area([estimator.predict(r.motion) for r in test], test)


def widths(tasks: Tasks, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """ρ of the first recording of each task's test half, the LSTM trained on the other half.

    Returns:
        {task: {"change_points", "switches", "rho": {variant: values}}}; the last variant is bumps of σ 4 around the
        change points, without LSTM.
    """
    out = {}
    for task, recordings in tasks.items():
        train, (shown, *_) = halves(recordings)
        motion = shown.motion
        points = segment_points(motion, None, resolved(Options(), [r.motion for r in train]))
        rho = {name: fitted(train, **settings).predict(motion) for name, settings in variants.items()}
        rho["bumps, σ 4"] = soft_targets(points, len(motion), Options().sigma)
        out[task] = {
            "change_points": points.tolist(),
            "switches": shown.switches.tolist(),
            "rho": {name: np.round(values, 4).astype(float).tolist() for name, values in rho.items()},
        }
    return out
