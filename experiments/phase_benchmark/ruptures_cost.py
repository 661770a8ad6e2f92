"""M3's cost of a given segmentation, and for every search of `ruptures` (Dynp, Pelt, …), passed as an instance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float
from ruptures.base import BaseCost

from gap_vla.core.errors import EpisodeError
from gap_vla.phases.motion import Motion
from gap_vla.phases.objective import Objective
from gap_vla.phases.search import segment_score
from gap_vla.phases.segmentation import as_motion


def segment_cost(
    position: np.ndarray | Motion,
    quaternion: np.ndarray | None = None,
    gripper: np.ndarray | None = None,
    change_points: Sequence[int] | np.ndarray = (),
    *,
    extra: np.ndarray | None = None,
    **objective: Any,
) -> float:
    """The M3 objective of a given segmentation, without the penalty: Σ_segments Σ_{i in segment} d, with d of M2.

    Args:
        change_points: ascending, strictly between 0 and T; `segment` explains the rest.
        **objective: fields of `Objective`.

    Returns:
        The cost, in units of one step; at least -(1 + α + β) · (T - 1) per arm.

    Raises:
        EpisodeError: bad signals or change points.

    >>> line = np.linspace(0, 1, 11)[:, None] * [[1.0, 0, 0]]
    >>> segment_cost(line)
    -10.0
    """
    motion = as_motion(position, quaternion, gripper, extra)
    goal = Objective(**objective)
    points = np.asarray(change_points, np.int64).ravel()
    edges = np.concatenate([[0], points, [len(motion)]])
    if len(points) and (np.diff(edges) <= 0).any():
        raise EpisodeError(
            f"{motion.where}: change points {points.tolist()} must ascend strictly between 0 and {len(motion)}"
        )
    if len(motion) == 0:
        return 0.0
    tables = goal.tables(motion)
    return float(np.sum([segment_score(int(a), int(b), tables, goal.mean) for a, b in itertools.pairwise(edges)]))


class MotionCost(BaseCost):
    """The cost of M3 as a `ruptures.base.BaseCost`, of a signal with the columns [position 3·arms | quaternion wxyz
    4·arms | gripper | extra].

    Joining segments can lower it, so Pelt may miss the optimum; `Dynp` and `gap_vla.phases.segment` do not.

    Args:
        arms: number of arms.
        quaternion: whether the 4·arms columns after the positions are quaternions.
        gripper: number of gripper columns.
        **objective: fields of `gap_vla.phases.objective.Objective`.

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
            raise EpisodeError(f"the signal has shape {signal.shape}; at least {ends[-1]} columns are needed")
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
        return float(segment_score(int(start), int(end), self._tables, self.objective.mean))
