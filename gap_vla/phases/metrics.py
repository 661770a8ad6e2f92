"""How good change points and ρ are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def match_boundaries(found: np.ndarray, true: np.ndarray, tolerance: float | int) -> list[tuple[int, int]]:
    """The greatest one-to-one matching of boundaries at most `tolerance` steps apart, as (found, true) pairs.

    Both are on a line, so walking them in order and pairing the first that fit is optimal.

    >>> match_boundaries(np.array([10, 31]), np.array([12, 20, 30]), 5)
    [(10, 12), (31, 30)]
    """
    pairs, i, j = [], 0, 0
    found, true = np.sort(found), np.sort(true)
    while i < len(found) and j < len(true):
        if abs(int(found[i]) - int(true[j])) <= tolerance:
            pairs.append((int(found[i]), int(true[j])))
            i, j = i + 1, j + 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return pairs


def boundary_scores(
    found: Sequence[np.ndarray], true: Sequence[np.ndarray], tolerance: float | int
) -> dict[str, float]:
    """Precision, recall, F1 and mean timing error (steps) over several recordings, counts pooled.

    A boundary counts once: matching is one-to-one. Without boundaries on either side F1 is 1.

    >>> boundary_scores([np.array([10, 50])], [np.array([11])], 2)["f1"]
    0.6666666666666666
    """
    hits, errors = 0, []
    for f, t in zip(found, true, strict=True):
        pairs = match_boundaries(f, t, tolerance)
        hits += len(pairs)
        errors += [abs(a - b) for a, b in pairs]
    n_found, n_true = sum(map(len, found)), sum(map(len, true))
    return {
        "precision": hits / n_found if n_found else float(n_true == 0),
        "recall": hits / n_true if n_true else float(n_found == 0),
        "f1": 2 * hits / (n_found + n_true) if n_found + n_true else 1.0,
        "timing_error": float(np.mean(errors)) if errors else float("nan"),
    }


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve (the step-wise sum; equal scores are one threshold).

    >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
    0.8333333333333333
    """
    positive = np.asarray(positive, bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-np.asarray(scores), kind="stable")
    ranked, ordered = positive[order], np.asarray(scores)[order]
    last_of_tie = np.append(ordered[1:] != ordered[:-1], True)
    hits = np.cumsum(ranked)[last_of_tie]
    taken = np.arange(1, len(ranked) + 1)[last_of_tie]
    return float((np.diff(hits, prepend=0) / hits[-1] * hits / taken).sum())


def near_boundaries(points: np.ndarray, length: int, tolerance: int) -> np.ndarray:
    """bool[T]: steps at most `tolerance` from a boundary.

    >>> near_boundaries(np.array([2]), 5, 1)
    array([False,  True,  True,  True, False])
    """
    near = np.zeros(length, bool)
    for point in points:
        near[max(point - tolerance, 0) : point + tolerance + 1] = True
    return near


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
