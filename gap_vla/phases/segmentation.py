"""M3: where the motion changes, by exact optimal partitioning."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int64

from gap_vla.phases.motion import DeadBand, Motion, MotionError, as_dead_band, unit_steps
from gap_vla.phases.penalty import default_penalty

if TYPE_CHECKING:
    from gap_vla.phases.search import Tables

Reduction = Literal["sum", "mean"]

MIN_SIZE = 3
"""Default least number of samples of a segment: shorter reversals are tremor, not phases."""

EXACT_UP_TO = 10_000
"""Recordings up to this long are searched without a bound on the segment; longer ones with `LONG_SEGMENT`."""

LONG_SEGMENT = 2_000


def segment(
    position: Float[np.ndarray, "T p"] | Motion,
    quaternion: Float[np.ndarray, "T q"] | None = None,
    gripper: Float[np.ndarray, "T g"] | None = None,
    *,
    extra: Float[np.ndarray, "T e"] | None = None,
    penalty: float | None = None,
    n_change_points: int | None = None,
    alpha: float = 1.0,
    beta: float = 2e-3,
    extra_weight: float = 1.0,
    min_size: int = MIN_SIZE,
    max_segment: int | None = None,
    jump: int = 1,
    dead_band: DeadBand | Mapping[str, float] | Sequence[float] | None = None,
    reduction: Reduction = "sum",
) -> Int64[np.ndarray, " K"]:
    """Change points of a motion: the exact minimum of M3.

    Minimises Σ_segments Σ_{i in segment} d(m_{t1:t2}, m_{i:i+1}) + penalty · (number of change points), with

        d = - cos(p_{t1:t2}, p_{i:i+1}) - α cos(θ_{t1:t2}, θ_{i:i+1}) - β [sgn g_{t1:t2} = sgn g_{i:i+1}]      (M2)

    over all segmentations, or over those with exactly `n_change_points`. A segment of samples t1 … t2 - 1 owns the
    steps that leave these samples and ends where the next one begins; the last sample of all has no step.

    Args:
        position: T×3, m, any fixed frame; T×3A for A arms, whose distances add (one segmentation for all). Or a
            `Motion`, then the next arguments are left out.
        quaternion: T×4 (T×4A), unit, wxyz; the sign does not matter. None: no rotation term.
        gripper: T×G, finger positions or openings; each column counts β / (columns per arm). None: no gripper term.
        extra: T×E, further joints or hand channels; their joint displacement enters as one more cosine.
        penalty: price of a change point, in perfectly aligned steps; None: `default_penalty` of this recording.
        n_change_points: exactly so many change points instead of a penalty.
        alpha: weight of the rotation term (paper: 1).
        beta: weight of the gripper term (paper: 2e-3).
        extra_weight: weight of the extra term.
        min_size: least number of samples in a segment.
        max_segment: greatest number of samples in a segment; None: no bound up to 10,000 samples, else 2,000. Time
            is O(T · max_segment), memory O(T).
        jump: change points only at multiples of this.
        dead_band: (position m, rotation rad, gripper units, extra units) below which nothing moves; a mapping sets
            some of them; None: `default_dead_band` of this recording.
        reduction: "sum" over a segment's steps (paper) or "mean" (the authors' release).

    Returns:
        int64[K], ascending; change point k is the first sample of a new segment. 0 and T are not among them. Empty
        for fewer than two samples and for recordings in which nothing moves.

    Raises:
        MotionError: bad signals, or no segmentation satisfies min_size, max_segment, jump and n_change_points.

    >>> corner = np.zeros((21, 3))
    >>> corner[:11, 0], corner[11:, 0] = np.linspace(0, 0.1, 11), 0.1
    >>> corner[10:, 1] = np.linspace(0, 0.1, 11)
    >>> segment(corner, penalty=1.0)
    array([10])
    """
    motion = as_motion(position, quaternion, gripper, extra)
    if penalty is not None and n_change_points is not None:
        raise MotionError("give penalty or n_change_points, not both")
    if n_change_points is not None:
        return segment_all(
            motion, most=n_change_points, alpha=alpha, beta=beta, extra_weight=extra_weight, min_size=min_size,
            max_segment=max_segment, jump=jump, dead_band=dead_band, reduction=reduction,
        )[n_change_points]  # fmt: skip
    bounds = _checked_bounds(len(motion), min_size, max_segment, jump, reduction)
    band = as_dead_band(dead_band, motion)
    if penalty is None:
        penalty = default_penalty([motion], band, alpha=alpha)
    elif not (np.isfinite(penalty) and penalty >= 0):
        raise MotionError(f"penalty must be finite and not negative, got {penalty}")
    if len(motion) < 2 * min_size:
        return np.zeros(0, np.int64)
    from gap_vla.phases.search import optimal_with_penalty

    tables = build_tables(motion, band, alpha, beta, extra_weight)
    start, cost = optimal_with_penalty(tables, float(penalty), *bounds, reduction == "mean")
    if not np.isfinite(cost):
        raise MotionError(
            f"{motion.where}: {len(motion)} samples cannot be cut into segments of {min_size} to {bounds[1]} samples "
            f"at multiples of {jump}; raise max_segment or lower min_size or jump"
        )
    return _walk_back(start, len(motion))


def segment_all(
    position: Float[np.ndarray, "T p"] | Motion,
    quaternion: Float[np.ndarray, "T q"] | None = None,
    gripper: Float[np.ndarray, "T g"] | None = None,
    *,
    most: int,
    extra: Float[np.ndarray, "T e"] | None = None,
    alpha: float = 1.0,
    beta: float = 2e-3,
    extra_weight: float = 1.0,
    min_size: int = MIN_SIZE,
    max_segment: int | None = None,
    jump: int = 1,
    dead_band: DeadBand | Mapping[str, float] | Sequence[float] | None = None,
    reduction: Reduction = "sum",
) -> list[Int64[np.ndarray, " K"]]:
    """The best segmentations with 0, 1, …, `most` change points, all from one table (M3, number of points given).

    Arguments as for `segment`. Memory is O(most · T).

    Raises:
        MotionError: `most` change points do not fit.

    >>> zigzag = np.cumsum([[1, 1, 0]] * 6 + [[1, -1, 0]] * 6 + [[1, 1, 0]] * 6, axis=0)
    >>> [list(map(int, points)) for points in segment_all(zigzag, most=2)]
    [[], [11], [5, 11]]
    """
    motion = as_motion(position, quaternion, gripper, extra)
    bounds = _checked_bounds(len(motion), min_size, max_segment, jump, reduction)
    if most < 0:
        raise MotionError(f"the number of change points must not be negative, got {most}")
    if most == 0 and len(motion) <= bounds[1]:
        return [np.zeros(0, np.int64)]
    if (most + 1) * min_size > len(motion):
        room = max(len(motion) // min_size - 1, 0)
        raise MotionError(
            f"{motion.where}: {most} change points do not fit: {len(motion)} samples with min_size {min_size} "
            f"hold at most {room}"
        )
    from gap_vla.phases.search import optimal_table

    tables = build_tables(motion, as_dead_band(dead_band, motion), alpha, beta, extra_weight)
    start, cost = optimal_table(tables, int(most), *bounds, reduction == "mean")
    if not np.isfinite(cost[most]):
        raise MotionError(
            f"{motion.where}: {most} change points do not fit {len(motion)} samples with min_size {min_size}, "
            f"max_segment {bounds[1]}, jump {jump}"
        )
    found = []
    for k in range(most + 1):
        points, end = np.zeros(k, np.int64), len(motion)
        for row in range(k, 0, -1):
            end = points[row - 1] = start[row, end]
        found.append(points)
    return found


def segment_cost(
    position: Float[np.ndarray, "T p"] | Motion,
    quaternion: Float[np.ndarray, "T q"] | None = None,
    gripper: Float[np.ndarray, "T g"] | None = None,
    change_points: Sequence[int] | Int64[np.ndarray, " K"] = (),
    *,
    extra: Float[np.ndarray, "T e"] | None = None,
    alpha: float = 1.0,
    beta: float = 2e-3,
    extra_weight: float = 1.0,
    dead_band: DeadBand | Mapping[str, float] | Sequence[float] | None = None,
    reduction: Reduction = "sum",
) -> float:
    """The M3 objective of a given segmentation, without the penalty.

    Σ_segments Σ_{i in segment} d, with d of M2 evaluated in O(1) per segment: the segment's displacement is the same
    for all its steps, so Σ cos(p_{t1:t2}, p_{i:i+1}) = u(p_{t1:t2}) · Σ u(p_{i:i+1}), u(x) = x / |x|.

    Args:
        change_points: ascending, strictly between 0 and T; `segment` explains the rest.

    Returns:
        The cost, in units of one step; between -(1 + α + β) · (T - 1) per arm and that number's negative.

    Raises:
        MotionError: bad signals or change points.

    >>> line = np.linspace(0, 1, 11)[:, None] * [[1.0, 0, 0]]
    >>> segment_cost(line)
    -10.0
    """
    motion = as_motion(position, quaternion, gripper, extra)
    points = np.asarray(change_points, np.int64).ravel()
    edges = np.concatenate([[0], points, [len(motion)]])
    if len(motion) == 0 or (len(points) and (np.diff(edges) <= 0).any()):
        if len(points):
            raise MotionError(
                f"{motion.where}: change points {points.tolist()} must ascend strictly between 0 and {len(motion)}"
            )
        return 0.0
    _check_reduction(reduction)
    from gap_vla.phases.search import segment_score

    tables = build_tables(motion, as_dead_band(dead_band, motion), alpha, beta, extra_weight)
    scores = [segment_score(int(a), int(b), tables, reduction == "mean") for a, b in itertools.pairwise(edges)]
    return float(np.sum(scores))


def build_tables(motion: Motion, band: DeadBand, alpha: float, beta: float, extra_weight: float) -> Tables:
    """Prefix sums of the unit steps and of the sign counts, from which any segment costs O(1)."""
    from gap_vla.phases.search import Tables

    steps = unit_steps(motion, band)
    arms = motion.arms
    vectors, offsets = motion.position, list(range(0, 3 * arms + 1, 3))
    weights, dead = [1.0] * arms, [band.position] * arms
    if motion.extra is not None and motion.extra.shape[1]:
        vectors = np.concatenate([vectors, motion.extra], axis=1)
        offsets.append(vectors.shape[1])
        weights.append(extra_weight)
        dead.append(band.extra)
    n, columns = len(motion), steps.sign.shape[1]
    quaternions = np.zeros((n, 0)) if motion.quaternion is None else motion.quaternion
    gripper = np.zeros((n, 0)) if motion.gripper is None else motion.gripper
    is_sign = steps.sign[:, :, None] == np.array([-1, 0, 1], np.int8)
    return Tables(
        vectors=np.ascontiguousarray(vectors),
        vector_sums=_prefix(steps.vectors[:, : vectors.shape[1]], np.float64),
        offsets=np.array(offsets, np.int64),
        weights=np.array(weights, np.float64),
        vector_dead=np.array(dead, np.float64),
        quaternions=np.ascontiguousarray(quaternions),
        rotation_sums=_prefix(steps.rotation, np.float64),
        alpha=float(alpha),
        rotation_dead=float(np.sin(min(band.rotation, np.pi) / 2)),
        gripper=np.ascontiguousarray(gripper),
        sign_counts=_prefix(is_sign.reshape(len(is_sign), 3 * columns), np.int32),
        sign_weight=float(beta) * arms / max(columns, 1),
        gripper_dead=float(band.gripper),
    )


def as_motion(
    position: np.ndarray | Motion,
    quaternion: np.ndarray | None = None,
    gripper: np.ndarray | None = None,
    extra: np.ndarray | None = None,
) -> Motion:
    """A `Motion` as it is, or one made of arrays."""
    if isinstance(position, Motion):
        if quaternion is not None or gripper is not None or extra is not None:
            raise MotionError("a Motion already holds quaternion, gripper and extra; pass it alone")
        return position
    return Motion.of(position, quaternion, gripper, extra)


def _prefix(steps: np.ndarray, dtype: Any) -> np.ndarray:
    sums = np.zeros((len(steps) + 1, steps.shape[1]), dtype)
    np.cumsum(steps, axis=0, out=sums[1:], dtype=dtype)
    return sums


def _check_reduction(reduction: str) -> None:
    if reduction not in ("sum", "mean"):
        raise MotionError(f'reduction is "sum" or "mean", not {reduction!r}')


def _checked_bounds(
    steps: int, min_size: int, max_segment: int | None, jump: int, reduction: str
) -> tuple[int, int, int]:
    _check_reduction(reduction)
    if min_size < 1 or jump < 1:
        raise MotionError(f"min_size and jump are at least 1, got {min_size} and {jump}")
    if max_segment is None:
        max_segment = steps if steps <= EXACT_UP_TO else LONG_SEGMENT
    elif max_segment < min_size:
        raise MotionError(f"max_segment {max_segment} is below min_size {min_size}")
    return int(min_size), int(max(max_segment, 1)), int(jump)


def _walk_back(start: np.ndarray, end: int) -> np.ndarray:
    points: list[int] = []
    while (end := int(start[end])) > 0:
        points.append(end)
    return np.array(points[::-1], np.int64)
