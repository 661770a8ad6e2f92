"""How well found boundaries agree with true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def match_boundaries(found: np.ndarray, true: np.ndarray, tolerance: float | int) -> list[tuple[int, int]]:
    """Among the greatest one-to-one matchings of boundaries at most `tolerance` steps apart one of the least total
    distance, as (found, true) pairs. On a line no two pairs need to cross.

    >>> match_boundaries(np.array([10, 31]), np.array([12, 20, 30]), 5)
    [(10, 12), (31, 30)]
    >>> match_boundaries(np.array([2, 10]), np.array([10]), 10)
    [(10, 10)]
    """
    # best[j]: of the found ones so far and the first j true ones, (-pairs, total distance, the pairs)
    best: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(0, 0, ())] * (len(true) + 1)
    for f in np.sort(found).astype(int).tolist():
        before, best = best, best[:1]
        for j, t in enumerate(np.sort(true).astype(int).tolist()):
            options = [before[j + 1], best[j]]
            if abs(f - t) <= tolerance:
                count, distance, pairs = before[j]
                options.append((count - 1, distance + abs(f - t), (*pairs, (f, t))))
            best.append(min(options))
    return list(best[-1][2])


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
