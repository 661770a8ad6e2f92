"""M3's cost for every search of `ruptures` (Dynp, Pelt, BottomUp, Window, Binseg), passed as an instance."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float
from ruptures.base import BaseCost

from gap_vla.phases.motion import Motion, MotionError
from gap_vla.phases.objective import Objective


class MotionCost(BaseCost):
    """The cost of M3 as a `ruptures.base.BaseCost`.

    The signal that ruptures sees has the columns [position 3·arms | quaternion wxyz 4·arms | gripper | extra].
    Pelt's pruning is not valid for this cost (joining segments can lower it), so Pelt may miss the optimum;
    `Dynp` and `gap_vla.phases.segment` do not.

    Args:
        arms: number of arms.
        quaternion: whether the 4·arms columns after the positions are quaternions.
        gripper: number of gripper columns.
        **objective: fields of `gap_vla.phases.objective.Objective`.

    Source: M2 and M3; ruptures' documentation of custom costs.

    >>> import ruptures
    >>> path = np.cumsum([[1.0, 0, 0]] * 10 + [[0, 1.0, 0]] * 10, axis=0)
    >>> ruptures.Dynp(custom_cost=MotionCost(quaternion=False), min_size=3, jump=1).fit(path).predict(n_bkps=1)
    [9, 20]
    """

    model = "motion"

    def __init__(self, *, arms: int = 1, quaternion: bool = True, gripper: int = 0, **objective: Any) -> None:
        self.arms, self.quaternion, self.gripper = arms, quaternion, gripper
        self.objective = Objective(**objective)
        self.min_size = 1
        self.signal: np.ndarray = np.zeros((0, 0))
        self._tables: Any = None

    def fit(self, signal: Float[np.ndarray, "T c"]) -> MotionCost:
        """Prepares the prefix sums; ruptures calls this."""
        signal = np.asarray(signal, np.float64)
        ends = np.cumsum([3 * self.arms, 4 * self.arms * self.quaternion, self.gripper])
        if signal.ndim != 2 or signal.shape[1] < ends[-1]:
            raise MotionError(f"the signal has shape {signal.shape}; at least {ends[-1]} columns are needed")
        position, quaternion, gripper, extra = np.split(signal, ends, axis=1)
        motion = Motion.of(
            position,
            quaternion if quaternion.shape[1] else None,
            gripper if gripper.shape[1] else None,
            extra if extra.shape[1] else None,
        )
        self.signal = signal
        self._tables = self.objective.tables(motion)
        return self

    def error(self, start: SupportsIndex, end: SupportsIndex) -> float:
        """The cost of the samples [start, end)."""
        from gap_vla.phases.search import segment_score

        return float(segment_score(int(start), int(end), self._tables, self.objective.mean))
