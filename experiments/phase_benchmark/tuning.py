"""Choosing a finder's parameter on training recordings: while the best value is the first or last of the grid, the grid
is extended, by up to `EXTENSIONS` values to either side, since one that ends too early makes a rival look worse than it
is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

EXTENSIONS = 12
"""Values that may be added to either end of a grid; for penalties, twelve doublings or halvings."""

Further = Callable[[float, int], float | None]
"""(value at an end of the grid, -1 or +1) to the next one beyond it, or None where the parameter's range ends."""


def tune(
    score: Callable[[float], float | int], grid: Sequence[float], further: Further, *, refine: bool
) -> tuple[float, float]:
    """Maximises a score over an ascending grid that grows as long as the best value is at its end; `refine`: then also
    over the geometric means of the best and its neighbours. `score` is called once for each value.

    Returns:
        The best value, of several equally good ones the middle one, and its score.

    >>> tune(lambda v: -abs(v - 50), (1.0, 2.0, 4.0), ratio(2), refine=True)
    (45.254833995939045, -4.745166004060955)
    """
    scores = {value: score(value) for value in grid}
    added = {-1: 0, 1: 0}
    while (side := _edge(scores)) and added[side] < EXTENSIONS:
        beyond = further(_best(scores), side)
        if beyond is None:
            break
        scores[beyond] = score(beyond)
        added[side] += 1
    values, best = sorted(scores), _best(scores)
    if refine:
        place = values.index(best)
        for neighbour in (*values[max(place - 1, 0) : place], *values[place + 1 : place + 2]):
            middle = math.sqrt(best * neighbour)
            scores[middle] = score(middle)
    best = _best(scores)
    return best, scores[best]


def ratio(factor: float) -> Further:
    """Values without bound above 0, such as penalties."""
    return lambda value, side: value * factor**side


def whole(least: int, step: Callable[[int], int]) -> Further:
    """Whole numbers from `least` on; `step` says how far the next one is."""

    def further(value: float, side: int) -> float | None:
        if side < 0 and value <= least:
            return None
        return float(max(least, int(value) + side * max(1, step(int(value)))))

    return further


def cosine(value: float, side: int) -> float:
    """Between -1 and 1: half of the way to the bound."""
    return (value + side) / 2


def _best(scores: dict[float, float | int]) -> float:
    most = max(scores.values())
    equal = sorted(value for value, found in scores.items() if found >= most - 1e-12)
    return equal[len(equal) // 2]


def _edge(scores: dict[float, float | int]) -> int:
    """-1 or 1 where the best value is the first or the last, else 0."""
    best = _best(scores)
    return -1 if best == min(scores) else int(best == max(scores))
