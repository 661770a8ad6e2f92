"""What M3 minimises, apart from the penalty: the terms of M2, their weights and their dead-bands."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.phases.dead_band import as_dead_band
from gap_vla.phases.motion import DeadBand, Motion, MotionError, unit_steps
from gap_vla.phases.smoothing import smooth_motion

if TYPE_CHECKING:
    from gap_vla.phases.search import Tables


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights and options of M2 and M3.

    Attributes:
        alpha: weight of the rotation term (paper: 1).
        beta: weight of the gripper term (paper: 2e-3); each column counts beta / (columns per arm).
        extra_weight: weight of the extra columns' term.
        rest: our addition, 0 in the paper: if positive, a segment whose mean step is within the dead-band may count
            as a pause instead, -rest for each of its steps without motion, where that is the lower cost.
        smooth: odd number of samples over which signals are averaged before (see `smoothing`); 1: not at all.
        dead_band: (position m, rotation rad, gripper units, extra units) below which nothing moves; a mapping sets
            some of them; None: `default_dead_band` of the recording.
        reduction: "sum" over a segment's steps (paper) or "mean" (the authors' release).
    """

    alpha: float | int = 1.0
    beta: float | int = 2e-3
    extra_weight: float | int = 1.0
    rest: float | int = 0.0
    smooth: int = 1
    dead_band: DeadBand | Mapping[str, float] | Sequence[float] | None = None
    reduction: str = "sum"

    def __post_init__(self) -> None:
        if self.reduction not in ("sum", "mean"):
            raise MotionError(f'reduction is "sum" or "mean", not {self.reduction!r}')
        weights = (self.alpha, self.beta, self.extra_weight, self.rest)
        if not all(np.isfinite(weights)) or min(weights) < 0:
            raise MotionError(f"alpha, beta, extra_weight and rest must be finite and not negative, got {weights}")

    @property
    def mean(self) -> bool:
        return self.reduction == "mean"

    def tables(self, motion: Motion) -> Tables:
        """Prefix sums of the unit steps and of the sign counts, from which any segment costs O(1)."""
        from gap_vla.phases.search import Tables

        band = as_dead_band(self.dead_band, motion, self.smooth)
        motion = smooth_motion(motion, self.smooth)
        steps = unit_steps(motion, band)
        arms = motion.arms
        vectors, offsets = motion.position, list(range(0, 3 * arms + 1, 3))
        weights, dead = [1.0] * arms, [band.position] * arms
        if motion.extra is not None and motion.extra.shape[1]:
            vectors = np.concatenate([vectors, motion.extra], axis=1)
            offsets.append(vectors.shape[1])
            weights.append(self.extra_weight)
            dead.append(band.extra)
        n, columns = len(motion), steps.sign.shape[1]
        resting = [~steps.vectors[:, a:b].any(axis=1) for a, b in itertools.pairwise(offsets)]
        is_sign = steps.sign[:, :, None] == np.array([-1, 0, 1], np.int8)
        return Tables(
            vectors=np.ascontiguousarray(vectors),
            vector_sums=_prefix(steps.vectors, np.float64),
            offsets=np.array(offsets, np.int64),
            weights=np.array(weights, np.float64),
            vector_dead=np.array(dead, np.float64),
            rest=float(self.rest),
            rest_sums=_prefix(np.stack(resting, axis=1), np.float64),
            quaternions=np.zeros((n, 0)) if motion.quaternion is None else np.ascontiguousarray(motion.quaternion),
            rotation_sums=_prefix(steps.rotation, np.float64),
            alpha=float(self.alpha),
            rotation_dead=float(np.sin(min(band.rotation, np.pi) / 2)),
            gripper=np.zeros((n, 0)) if motion.gripper is None else np.ascontiguousarray(motion.gripper),
            sign_counts=_prefix(is_sign.reshape(len(is_sign), 3 * columns), np.int32),
            sign_weight=float(self.beta) * arms / max(columns, 1),
            gripper_dead=float(band.gripper),
        )


def _prefix(steps: np.ndarray, dtype: Any) -> np.ndarray:
    sums = np.zeros((len(steps) + 1, steps.shape[1]), dtype)
    np.cumsum(steps, axis=0, out=sums[1:], dtype=dtype)
    return sums
