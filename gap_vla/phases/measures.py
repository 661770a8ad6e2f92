"""Labels in figures: how much ρ there is, how well it is calibrated, and what a user should know before using it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.errors import NEGATIVE, EpisodeError
from gap_vla.phases.targets import distance_to, is_transition

POOR = 0.1
"""Calibration error on held-out recordings from which on ρ should not be read as a probability."""

PROFILE = 10
"""ρ is reported by distance from the nearest change point up to this many steps."""

LITTLE = 0.1
"""Mean ρ below which the per-sample factor 1 - ρ of GAP (M6) changes little."""

WEAK = 0.5
"""Share of change points with ρ above one half, below which ρ does not mark the transitions."""

BROAD = 0.5
"""Share of steps with ρ above one half, above which ρ tells little about where the transitions are."""

WIDER = {"gaussian": "a larger `sigma`", "fixed": "a larger `value`"}
"""What gives a wider ρ where it is made so; elsewhere another method does."""


def weighted_loss(rho: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean binary cross-entropy of M5."""
    p = np.clip(rho.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    return float((weights * losses).sum() / weights.sum())


def calibration(rho: np.ndarray, targets: np.ndarray, weights: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Reliability of ρ under the weights of M5, which is what its loss asks of it.

    In each bin of ρ the weighted share of positives should equal the weighted mean of ρ; `error` is the weighted mean
    of the difference (expected calibration error, 0 is perfect).

    Returns:
        {"error": float, "bins": [{"rho", "observed", "weight"}, …]}, empty bins left out.
    """
    where = np.minimum((rho * bins).astype(int), bins - 1)
    rows, error = [], 0.0
    total = float(weights.sum())
    for k in range(bins):
        w = weights[where == k]
        if w.sum() <= 0:
            continue
        mean = float((w * rho[where == k]).sum() / w.sum())
        observed = float((w * targets[where == k]).sum() / w.sum())
        rows.append({"rho": mean, "observed": observed, "weight": float(w.sum()) / total})
        error += abs(mean - observed) * float(w.sum()) / total
    return {"error": error, "bins": rows}


def marked_share(rho: Sequence[np.ndarray], change_points: Sequence[np.ndarray]) -> float | None:
    """The share of change points at which ρ is above one half; None without any.

    Where it is small, ρ does not mark the transitions, however well the change points were found.

    Args:
        rho: float[T] per episode.
        change_points: int[K] per episode.

    >>> marked_share([np.array([0.9, 0.1, 0.8, 0.2])], [np.array([2, 3])])
    0.5
    """
    marks = np.concatenate([np.zeros(0, bool), *(is_transition(r[p]) for r, p in zip(rho, change_points, strict=True))])
    return float(marks.mean()) if len(marks) else None


class WeakRho(EpisodeError):
    """ρ does not mark the change points that it was learnt from."""

    status = NEGATIVE


def told_weak(rho: Sequence[np.ndarray], change_points: Sequence[np.ndarray]) -> str:
    """A sentence if ρ marks so few of the change points, or so many of the steps, that GAP has little to act on.

    Args:
        rho: float[T] per episode.
        change_points: int[K] per episode.

    >>> told_weak([np.array([0.9, 0.1, 0.1, 0.8, 0.2])], [np.array([3])])
    ''
    """
    report = {"rho_marks": marked_share(rho, change_points), "rho_over_half": over_half(rho)}
    return marks_few(report) or marks_most(report)


def marks_few(report: Mapping[str, Any]) -> str:
    """Of `label_report`: a sentence if ρ marks few of the change points, which GAP then does not see; else ""."""
    if (marks := report.get("rho_marks")) is None or marks >= WEAK:
        return ""
    what = "try option updates=2000, held_out=0 or spread=4, or method gaussian"
    return f"ρ is weak: above 0.5 at {marks:.0%} of its change points, so GAP has little to act on; {what}"


def marks_most(report: Mapping[str, Any]) -> str:
    """Of `label_report`: a sentence if ρ marks more than half of the steps; else ""."""
    if (over := report.get("rho_over_half")) is None or over <= BROAD:
        return ""
    what = "more demonstrations, or method gaussian with a smaller sigma, give a narrower ρ"
    return f"ρ is broad: above 0.5 at {over:.0%} of the steps, so GAP acts nearly everywhere; {what}"


def require_marks(report: Mapping[str, Any]) -> None:
    """Raises WeakRho if a ρ of the LSTM marks few of the change points; `report` is that of an `Annotation`."""
    if report.get("estimator") and (weak := marks_few(report)):
        raise WeakRho(weak)


def over_half(rho: Sequence[np.ndarray]) -> float | None:
    """The share of steps at which ρ is above one half; None without any."""
    marks = np.concatenate([np.zeros(0, bool), *map(is_transition, rho)])
    return float(marks.mean()) if len(marks) else None


def label_report(rho: Sequence[np.ndarray], change_points: Sequence[np.ndarray]) -> dict[str, Any]:
    """JSON-able summary of the labels of a data set.

    Returns:
        episodes, steps, change_points (all), change_points_per_episode, change_rate (per step), rho_mean,
        rho_width (steps with ρ above one half per change point or first step of an episode, which is a target of M4),
        rho_marks (`marked_share`), rho_over_half (share of the steps with ρ above one half),
        rho_by_distance (mean ρ at 0 … 10 steps from the nearest change point, the first step not counted as one;
        None where no step is that far from one).
    """
    lengths = [len(r) for r in rho]
    steps, points = sum(lengths), sum(map(len, change_points))
    everything = np.concatenate([np.zeros(0, np.float32), *rho])
    distances = np.concatenate([np.zeros(0), *(distance_to(p, n) for p, n in zip(change_points, lengths))])
    profile = [everything[distances == d] for d in range(PROFILE + 1)]
    return {
        "episodes": len(lengths),
        "steps": steps,
        "change_points": points,
        "change_points_per_episode": points / max(len(lengths), 1),
        "change_rate": points / max(steps, 1),
        "rho_mean": float(everything.mean(dtype=np.float64)) if steps else None,
        "rho_width": float(is_transition(everything).sum() / (points + len(lengths))) if steps else None,
        "rho_marks": marked_share(rho, change_points),
        "rho_over_half": over_half(rho),
        "rho_by_distance": [float(r.mean(dtype=np.float64)) if len(r) else None for r in profile],
    }


def describe(report: Mapping[str, Any]) -> list[str]:
    """The lines about a report that a user should see."""
    lines = [f"{report['episodes']} episodes, {report['steps']} steps, {report['change_points']} change points"]
    if report["rho_mean"] is None:
        return lines
    mean, width = report["rho_mean"], report["rho_width"]
    lines.append(f"ρ: {mean:.3f} on average, above 0.5 for {width:.1f} steps per change point or beginning")
    return lines + [f"note: {note}" for note in notes(report)]


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a user should know before using these labels, a sentence each; of `Annotation.report`."""
    found = []
    mean, estimator = report["rho_mean"], report.get("estimator")
    if estimator and (weak := marks_few(report)):
        found.append(weak)
    if report.get("rho_by") != "fixed" and (broad := marks_most(report)):
        found.append(broad)
    if mean is not None and mean < LITTLE:
        wider = WIDER.get(report.get("rho_by", ""), "method `gaussian`, or the option `spread` of the LSTM,")
        found.append(
            f"the factor 1 - ρ is {1 - mean:.2f} on average, so GAP has little to act on; "
            f"{wider} gives a wider ρ (docs/PHASES.md)"
        )
    if estimator and not estimator["held_out_recordings"]:
        found.append("no recording was held out, so nothing says how well the LSTM does on recordings it has not seen")
    elif estimator and (error := estimator["held_out_calibration"]["error"]) > POOR:
        found.append(
            f"on the {estimator['held_out_recordings']} recordings held out, ρ misses the share of change points by "
            f"{error:.2f} on average (calibration error), so it ranks steps but is no probability; more or longer "
            "recordings help, and method `gaussian` needs none"
        )
    return found
