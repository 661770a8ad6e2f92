"""M3's cost for every search of `ruptures` (Dynp, Pelt, …), and of a given segmentation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from ruptures.base import BaseCost

from gap_vla.phases.motion import Motion
from gap_vla.phases.objective import Objective
from gap_vla.phases.search import segment_score


class MotionCost(BaseCost):
    """The cost of M3 of one motion; `objective` are fields of `gap_vla.phases.objective.Objective`.

    Joining segments can lower it, so Pelt may miss the optimum; `Dynp` and `gap_vla.phases.segment` do not.

    >>> import ruptures
    >>> cost = MotionCost(Motion.of(np.cumsum([[1.0, 0, 0]] * 10 + [[0, 1.0, 0]] * 10, axis=0)))
    >>> ruptures.Dynp(custom_cost=cost, min_size=3, jump=1).fit(cost.signal).predict(n_bkps=1)
    [9, 20]
    """

    model = "motion"
    min_size = 1

    def __init__(self, motion: Motion, **objective: Any) -> None:
        goal = Objective(**objective)
        self.signal, self._tables, self._mean = motion.samples, goal.tables(motion), goal.mean

    def fit(self, signal: np.ndarray) -> MotionCost:
        """Nothing: it knows its motion."""
        return self

    def error(self, start: SupportsIndex, end: SupportsIndex) -> float:
        """The cost of the samples [start, end)."""
        return float(segment_score(int(start), int(end), self._tables, self._mean))


def segment_cost(
    position: np.ndarray,
    quaternion: np.ndarray | None = None,
    gripper: np.ndarray | None = None,
    change_points: Sequence[int] | np.ndarray = (),
    *,
    extra: np.ndarray | None = None,
    **objective: Any,
) -> float:
    """The M3 objective of a given segmentation, without the penalty: Σ_segments Σ_{i in segment} d, with d of M2.

    Args:
        position, quaternion, gripper, extra: as of `Motion.of`.
        change_points: ascending, strictly between 0 and T.

    >>> segment_cost(np.linspace(0, 1, 11)[:, None] * [[1.0, 0, 0]])
    -10.0
    """
    cost = MotionCost(Motion.of(position, quaternion, gripper, extra), **objective)
    return sum(cost.error(a, b) for a, b in itertools.pairwise([0, *change_points, len(position)]))
