"""The comparison: tune on one half of the recordings of each task, score on the other. `untouched` does so on
recordings that nobody looked at while our defaults were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from experiments.phase_benchmark.finders import FINDERS, Finder
from experiments.phase_benchmark.motions import (
    METAWORLD,
    ROBOSUITE,
    ExpertMotion,
    load_motions,
    metaworld_motions,
    robosuite_motions,
)
from experiments.phase_benchmark.scores import boundary_scores, match_boundaries
from experiments.phase_benchmark.tuning import Tuned, tune
from gap_vla.phases.estimator import PhaseEstimator
from gap_vla.phases.measures import label_report
from gap_vla.phases.methods import Options, resolved, segment_points
from gap_vla.phases.motion import Motion
from gap_vla.phases.targets import near_boundaries, soft_targets

TOLERANCES = (2, 5, 10)
BY_TASK = ("value", "tried", "range_ends", "tuning_f1@5", "counts@5")
"""Of a line's scores, those that have no mean over the tasks."""

AROUND = 2
"""ρ should be high within this many steps of a true switch (area under the precision-recall curve)."""

FIRST = 5
"""Steps at the start that ρ is not scored on: its first step is a change point by definition (M4)."""

SIMULATED: dict[str, dict[str, Any]] = {
    "seeds": {"seed": 1007},
    "disjoint": {"seed": 1008, "variant": "positions_disjoint"},
    "noise": {"seed": 1009, "action_noise": 0.25},
    "size": {"seed": 1010, "variant": "object_size"},
}
"""Sets of our tasks: what is said to `gap_vla.sim.collect_demos`. The variants left out change pictures only."""

TITLES = {
    "seeds": "our tasks, other seeds",
    "disjoint": "our tasks, positions outside of the default ranges",
    "noise": "our tasks, actions disturbed by 0.25",
    "size": "our tasks, objects 15 % larger",
    "metaworld": "ten other tasks of Meta-World, played by Meta-World's policies",
    "robosuite": "robosuite's Lift and PickPlaceCan, played by a list of goals",
}
"""Every set, and what a table calls it."""

STOCK_SEED = 1011

COMPARED = {name: f for name, f in FINDERS.items() if not name.startswith(("ours before", "release"))}


def halves(recordings: Sequence[ExpertMotion]) -> tuple[list[ExpertMotion], list[ExpertMotion]]:
    """Training and test half: every second recording."""
    return list(recordings[::2]), list(recordings[1::2])


def compare(
    tasks: Mapping[str, Sequence[ExpertMotion]],
    finders: Mapping[str, Finder] = FINDERS,
    keep: Callable[[dict[str, Any]], Any] = lambda results: None,
) -> dict[str, Any]:
    """Scores every finder on every task.

    Args:
        keep: is given the results so far after every finder.

    Returns:
        {finder: {"tasks": {task: scores}, "mean": scores}}; scores: f1@2, f1@5, f1@10, precision@5, recall@5,
        timing_error (steps, matched within 10), auprc (of bumps around the change points), and by task what `BY_TASK`
        names: value of the tuned parameter, the least and greatest that were tried, whether its range ends there, and
        matched/found/true of every test recording, such as "4/5/5 5/5/5".
    """
    out: dict[str, Any] = {}
    for name, finder in finders.items():
        each = {task: _score_finder(finder, *halves(recordings)) for task, recordings in tasks.items()}
        keys = [key for key in next(iter(each.values())) if key not in BY_TASK]
        out[name] = {"tasks": each, "mean": {key: float(np.nanmean([s[key] for s in each.values()])) for key in keys}}
        keep(out)
        print(f"{name}: F1@5 {out[name]['mean']['f1@5']:.3f}", flush=True)
    return out


def rho_scores(
    tasks: Mapping[str, Sequence[ExpertMotion]],
    variants: Mapping[str, Mapping[str, Any]],
    keep: Callable[[dict[str, Any]], Any],
) -> dict[str, Any]:
    """Area under the precision-recall curve of the LSTM's ρ, trained on one half and scored on the other.

    Args:
        variants: name to settings of `PhaseEstimator`.
        keep: is given the results so far after every variant.

    Returns:
        {variant: {"tasks": {task: {"auprc", "rho_mean", "rho_width", "held_out_loss", "calibration"}}, "mean": {…}}}.
    """
    out: dict[str, Any] = {}
    for name, settings in variants.items():
        each = {}
        for task, recordings in tasks.items():
            train, test = halves(recordings)
            estimator = fitted(train, **settings)
            rho = [estimator.predict(r.motion) for r in test]
            options = resolved(Options(), [r.motion for r in train])
            report = label_report(rho, [segment_points(r.motion, None, options) for r in test])
            each[task] = {
                "auprc": area(rho, test),
                "rho_mean": report["rho_mean"],
                "rho_width": report["rho_width"],
                "held_out_loss": estimator.report["held_out_loss"],
                "calibration": estimator.report["held_out_calibration"]["error"],
            }
        keys = next(iter(each.values()))
        out[name] = {"tasks": each, "mean": {k: float(np.mean([s[k] for s in each.values()])) for k in keys}}
        keep(out)
        print(f"{name}: AUPRC {out[name]['mean']['auprc']:.3f}", flush=True)
    return out


def fitted(train: Sequence[ExpertMotion], **settings: Any) -> PhaseEstimator:
    """The LSTM trained on change points of our segmentation, not on the true switches."""
    motions = [r.motion for r in train]
    options = resolved(Options(), motions)
    return PhaseEstimator(**settings).fit(motions, [segment_points(m, None, options) for m in motions])


def area(rho: Sequence[np.ndarray], recordings: Sequence[ExpertMotion]) -> float:
    """Area under the precision-recall curve for "within `AROUND` steps of a true switch"."""
    near = np.concatenate([near_boundaries(r.switches, len(r.motion), AROUND)[FIRST:] for r in recordings])
    if not near.any():
        return float("nan")
    return float(average_precision_score(near, np.concatenate([r[FIRST:] for r in rho])))


def bumps(points: Sequence[np.ndarray], motions: Sequence[Motion]) -> list[np.ndarray]:
    """ρ as bumps of width 2 steps around change points, for finders without a ρ of their own."""
    return [soft_targets(p, len(m), 2.0) for p, m in zip(points, motions)]


def _score_finder(finder: Finder, train: Sequence[ExpertMotion], test: Sequence[ExpertMotion]) -> dict[str, Any]:
    motions, true = [r.motion for r in train], [r.switches for r in train]
    if len(finder.grid) > 1:
        tuned = tune(lambda v: boundary_scores(finder.find(motions, v), true, 5)["f1"], finder.grid, finder.further)
    else:
        tuned = Tuned(finder.grid[0], None, finder.grid[0], finder.grid[0], True)
    value = tuned.value
    motions, true = [r.motion for r in test], [r.switches for r in test]
    points = finder.find(motions, value)
    scores = {t: boundary_scores(points, true, t) for t in TOLERANCES}
    return {
        **{f"f1@{t}": scores[t]["f1"] for t in TOLERANCES},
        "precision@5": scores[5]["precision"],
        "recall@5": scores[5]["recall"],
        "timing_error": scores[10]["timing_error"],
        "auprc": area(bumps(points, motions), test),
        "value": value,
        "tried": [tuned.low, tuned.high],
        "range_ends": tuned.range_ends,
        "tuning_f1@5": tuned.score,
        "counts@5": " ".join(f"{len(match_boundaries(p, t, 5))}/{len(p)}/{len(t)}" for p, t in zip(points, true)),
    }


def untouched(
    demos: Path, tasks: Sequence[str], episodes: int, keep: Callable[[dict[str, Any]], Any], sets: Sequence[str] = ()
) -> dict[str, Any]:
    """Scores every finder on every set, which `keep` is given so far after each.

    Args:
        demos: folder where recordings of the simulated sets are, or are collected to.
        episodes: per task and set, half of them for tuning.
        sets: only these of `TITLES`; default: all.

    Returns:
        {set: {"recordings": {task: number}, "results": as of `compare`}}.
    """
    out: dict[str, Any] = {}
    for name in sets or TITLES:
        recordings = motions_of(name, demos, tasks, episodes)
        print(f"{name}: {sum(map(len, recordings.values()))} recordings of {len(recordings)} tasks", flush=True)
        out[name] = {
            "recordings": {task: len(found) for task, found in recordings.items()},
            "results": compare(recordings, COMPARED),
        }
        keep(out)
    return out


def motions_of(name: str, demos: Path, tasks: Sequence[str], episodes: int) -> Mapping[str, list[ExpertMotion]]:
    """Recordings of a set, so many of each task; of others' experts as many as succeed."""
    if name in SIMULATED:
        return {task: _simulated(name, demos, task, episodes) for task in tasks}
    others, play = (METAWORLD, metaworld_motions) if name == "metaworld" else (ROBOSUITE, robosuite_motions)
    return {task: play(task, episodes, STOCK_SEED) for task in others}


def _simulated(name: str, demos: Path, task: str, episodes: int) -> list[ExpertMotion]:
    path = demos / name / f"{task}.hdf5"
    if not path.exists():
        from gap_vla.sim import collect_demos

        collect_demos(task, episodes, path, cameras=(), **SIMULATED[name])
    return load_motions(path, episodes)
