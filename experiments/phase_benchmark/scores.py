"""How well found boundaries agree with true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment


def match_boundaries(found: np.ndarray, true: np.ndarray, tolerance: float | int) -> list[tuple[int, int]]:
    """As many pairs (found, true) as can be, each boundary in one pair, at most `tolerance` steps apart; of these
    matchings one of the least total distance.

    >>> match_boundaries(np.array([10, 31]), np.array([12, 20, 30]), 5)
    [(10, 12), (31, 30)]
    >>> match_boundaries(np.array([2, 10]), np.array([10]), 10)
    [(10, 10)]
    """
    distance = np.abs(np.subtract.outer(found, true))
    a_pair = 1 + distance.sum()  # is worth more than every distance
    chosen = zip(*linear_sum_assignment(np.where(distance <= tolerance, a_pair - distance, 0), maximize=True))
    return [(int(found[i]), int(true[j])) for i, j in chosen if distance[i, j] <= tolerance]


def boundary_scores(
    found: Sequence[np.ndarray], true: Sequence[np.ndarray], tolerance: float | int
) -> dict[str, float]:
    """Precision, recall, F1 and mean timing error (steps) over several recordings, counts pooled; without boundaries on
    either side F1 is 1.

    >>> boundary_scores([np.array([10, 50])], [np.array([11])], 2)["f1"]
    0.6666666666666666
    """
    pairs = [pair for f, t in zip(found, true, strict=True) for pair in match_boundaries(f, t, tolerance)]
    n_found, n_true = sum(map(len, found)), sum(map(len, true))
    return {
        "precision": len(pairs) / n_found if n_found else float(n_true == 0),
        "recall": len(pairs) / n_true if n_true else float(n_found == 0),
        "f1": 2 * len(pairs) / (n_found + n_true) if n_found + n_true else 1.0,
        "timing_error": float(np.mean([abs(f - t) for f, t in pairs])) if pairs else float("nan"),
    }
