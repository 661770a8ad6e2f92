"""Change points and ρ at the rates of real robots, from few demonstrations and from many, and with repeats and pauses.

A step of our tasks counts as 1/20 s, Meta-World's of 1/80 s too: no arm that people teach moves as fast as that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.phase_benchmark.motions import ExpertMotion, at_rate
from experiments.phase_benchmark.scores import boundary_scores
from experiments.phase_benchmark.study import our_motions
from gap_vla.phases.estimator import PhaseEstimator
from gap_vla.phases.measures import marked_share
from gap_vla.phases.methods import Options, resolved, segment_points
from gap_vla.phases.motion import distinct_rows
from gap_vla.phases.targets import is_transition, near_boundaries

OWN = 20.0
RATES = (5.0, 10.0, OWN, 30.0, 50.0)
TOLERANCE = 0.25
"""Seconds; half a sample is added."""

NUMBERS = (5, 20, 200)
MANY = ("assembly", "pick_place")
"""Tasks of which there are 200 demonstrations."""

SETS: dict[tuple[str, bool], tuple[str, dict[str, Any]]] = {
    ("clean", False): ("", {"seed": 7}),
    ("disturbed", False): ("noise", {"seed": 1009, "action_noise": 0.25}),
    ("clean", True): ("many", {"seed": 21}),
    ("disturbed", True): ("many_noise", {"seed": 22, "action_noise": 0.25}),
}
"""Folder of the recordings, and what is said to `gap_vla.sim.collect_demos`; True: of 200."""

PAUSE = 20
"""Idle steps at the beginning, at a switch and at the end."""


def rates(demos: Path, tasks: Sequence[str], keep: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Scores of `score` by condition ("clean, 5", …), rate and task; `keep` is given the results so far."""
    out: dict[str, Any] = {}
    for (name, many), (folder, how) in SETS.items():
        chosen = [task for task in MANY if task in tasks] if many else tasks
        most = 200 if many else 20
        recordings = {
            task: [dataclasses.replace(r, hz=OWN) for r in our_motions(demos / folder, task, most, **how)]
            for task in chosen
        }
        for number in NUMBERS[2:] if many else NUMBERS[:2]:
            for hz in RATES:
                at_hz = {task: [at_rate(r, hz) for r in rs[:number]] for task, rs in recordings.items()}
                _score_all(out, f"{name}, {number}", hz, at_hz, keep)
        if (name, many) == ("clean", False):
            for what, change in (("each state 3 times", repeated), ("pauses", with_pauses)):
                _score_all(out, f"{what}, 20", OWN, {t: list(map(change, rs)) for t, rs in recordings.items()}, keep)
    return out


def _score_all(out: dict[str, Any], name: str, hz: float, tasks: Mapping[str, Any], keep: Callable[..., Any]) -> None:
    each = {task: score(recordings) for task, recordings in tasks.items()}
    mean = {key: float(np.mean([s[key] for s in each.values()])) for key in next(iter(each.values()))}
    out.setdefault(name, {})[f"{hz:g}"] = {"tasks": each, "mean": mean}
    keep(out)
    print(f"{name}, {hz:g} Hz:", ", ".join(f"{key} {value:.2f}" for key, value in mean.items()), flush=True)


def score(recordings: Sequence[ExpertMotion]) -> dict[str, float]:
    """What `annotate` makes of recordings: F1 of the change points; the share of them that ρ marks (> 0.5); which share
    of the steps that ρ marks is near a true switch or the first step."""
    rows = [distinct_rows(r.motion) for r in recordings]
    motions = [r.motion.at(kept) for r, kept in zip(recordings, rows)]
    options = resolved(Options(), motions)
    points = [segment_points(motion, None, options) for motion in motions]
    estimator = PhaseEstimator(lookahead=2).fit(motions, points)
    rho = [estimator.predict(motion) for motion in motions]
    if any(len(kept) < len(r.motion) for r, kept in zip(recordings, rows)):  # as `annotate` does
        points = [kept[found] for kept, found in zip(rows, points)]
        places = [
            np.searchsorted(kept, np.arange(len(r.motion)), side="right") - 1 for r, kept in zip(recordings, rows)
        ]
        rho = [values[place] for values, place in zip(rho, places)]
    steps = int(TOLERANCE * recordings[0].hz + 0.5)
    near = [near_boundaries(np.r_[0, r.switches], len(r.motion), steps) for r in recordings]
    marked = is_transition(np.concatenate(rho))
    return {
        "f1": boundary_scores(points, [r.switches for r in recordings], steps)["f1"],
        "marks": marked_share(rho, points) or 0.0,
        "right": float(np.concatenate(near)[marked].mean()) if marked.any() else 0.0,
    }


def repeated(recording: ExpertMotion, times: int = 3) -> ExpertMotion:
    """Each state logged several times, as of a slow robot in a fast log."""
    rows = np.repeat(np.arange(len(recording.motion)), times)
    return ExpertMotion(recording.motion.at(rows), recording.switches * times, times * recording.hz)


def with_pauses(recording: ExpertMotion) -> ExpertMotion:
    """Idle steps at the beginning, at the middle switch and at the end; where a pause begins or ends is a switch."""
    switches, last = recording.switches, len(recording.motion) - 1
    middle = int(switches[len(switches) // 2])
    rows = np.r_[[0] * PAUSE, 0:middle, [middle] * PAUSE, middle : last + 1, [last] * PAUSE]
    moved = np.where(switches > middle, switches + 2 * PAUSE, switches + PAUSE)
    edges = [PAUSE, middle + 2 * PAUSE, last + 2 * PAUSE]
    return ExpertMotion(recording.motion.at(rows), np.unique(np.r_[moved, edges]), recording.hz)


def rates_table(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows: F1, then the share of change points that ρ marks, then the share of marked steps that are right."""
    rows = [["recordings, number", *(f"{hz:g} Hz" for hz in RATES)]]
    for name, at in results.items():
        cells = [at[f"{hz:g}"]["mean"] if f"{hz:g}" in at else None for hz in RATES]
        rows.append(
            [name, *("" if c is None else f"{c['f1']:.2f} · {c['marks']:.2f} · {c['right']:.2f}" for c in cells)]
        )
    return rows
