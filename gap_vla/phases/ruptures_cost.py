"""M3's cost for every search of `ruptures` (Dynp, Pelt, BottomUp, Window, Binseg), passed as an instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ruptures.base import BaseCost

from gap_vla.phases.motion import DeadBand, Motion, MotionError, as_dead_band
from gap_vla.phases.segmentation import build_tables


class MotionCost(BaseCost):
    """The cost of M3 as a `ruptures.base.BaseCost`.

    The signal that ruptures sees has the columns [position 3·arms | quaternion wxyz 4·arms | gripper | extra].
    Pelt's pruning is not valid for this cost (joining segments can lower it), so Pelt may miss the optimum;
    `Dynp` and `gap_vla.phases.segment` do not.

    Args:
        arms: number of arms.
        quaternion: whether the 4·arms columns after the positions are quaternions.
        gripper: number of gripper columns.
        alpha, beta, extra_weight, dead_band, reduction: as for `gap_vla.phases.segment`.

    Source: M2 and M3; ruptures' documentation of custom costs.

    >>> import ruptures
    >>> path = np.cumsum([[1.0, 0, 0]] * 10 + [[0, 1.0, 0]] * 10, axis=0)
    >>> ruptures.Dynp(custom_cost=MotionCost(quaternion=False), min_size=3, jump=1).fit(path).predict(n_bkps=1)
    [9, 20]
    """

    model = "motion"

    def __init__(
        self,
        *,
        arms: int = 1,
        quaternion: bool = True,
        gripper: int = 0,
        alpha: float = 1.0,
        beta: float = 2e-3,
        extra_weight: float = 1.0,
        dead_band: DeadBand | Mapping[str, float] | Sequence[float] | None = None,
        reduction: str = "sum",
    ) -> None:
        self.arms, self.quaternion, self.gripper = arms, quaternion, gripper
        self.alpha, self.beta, self.extra_weight = alpha, beta, extra_weight
        self.dead_band, self.reduction = dead_band, reduction
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
        band = as_dead_band(self.dead_band, motion)
        self._tables = build_tables(motion, band, self.alpha, self.beta, self.extra_weight)
        return self

    def error(self, start: int, end: int) -> float:
        """The cost of the samples [start, end)."""
        from gap_vla.phases.search import segment_score

        return float(segment_score(start, end, self._tables, self.reduction == "mean"))
