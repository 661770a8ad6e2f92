"""Choosing a finder's parameter on training recordings: while the best value is the first or last of the grid, the grid
is extended, by up to `EXTENSIONS` values to either side, since one that ends too early makes a rival look worse than it
is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

EXTENSIONS = 12
"""Values that may be added to either end of a grid; for penalties, twelve doublings or halvings."""

Further = Callable[[float, int], float | None]
"""(value at an end of the grid, -1 or +1) to the next one beyond it, or None where the parameter's range ends."""


class Tuned(NamedTuple):
    """What was chosen.

    Attributes:
        value: the best; of several equally good ones the middle one.
        score: of it, on the training recordings; None where there was nothing to choose.
        low, high: least and greatest value that was tried; `range_ends`: the parameter can have none beyond the best.
    """

    value: float
    score: float | None
    low: float
    high: float
    range_ends: bool


def tune(score: Callable[[float], float | int], grid: Sequence[float], further: Further, *, refine: bool) -> Tuned:
    """Maximises a score over an ascending grid that grows as long as the best value is at its end; `refine`: then also
    over the geometric means of the best and its neighbours. `score` is called once for each value.

    >>> tune(lambda v: -abs(v - 50), (1.0, 2.0, 4.0), ratio(2), refine=True)
    Tuned(value=45.254833995939045, score=-4.745166004060955, low=1.0, high=128.0, range_ends=False)
    """
    scores = {value: score(value) for value in grid}
    added = {-1: 0, 1: 0}
    range_ends = False
    while (side := _edge(scores)) and added[side] < EXTENSIONS:
        beyond = further(_best(scores), side)
        if beyond is None:
            range_ends = True
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
    return Tuned(best, scores[best], values[0], values[-1], range_ends)


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
