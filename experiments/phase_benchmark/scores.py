"""How well found boundaries agree with true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def match_boundaries(found: np.ndarray, true: np.ndarray, tolerance: float | int) -> list[tuple[int, int]]:
    """The greatest one-to-one matching of boundaries at most `tolerance` steps apart, as (found, true) pairs. On a
    line, pairing the first that fit is optimal.

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
    """Precision, recall, F1 and mean timing error (steps) over several recordings, counts pooled; without boundaries on
    either side F1 is 1.

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
