"""M3: where the motion changes, by exact optimal partitioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from gap_vla.core.errors import ConfigError
from gap_vla.phases.motion import Motion
from gap_vla.phases.objective import Objective, default_penalty

MIN_SIZE = 3
"""Default least number of samples of a segment."""

EXACT_UP_TO = 10_000
"""Recordings up to this long are searched without a bound on the segment; longer ones with `LONG_SEGMENT`."""

LONG_SEGMENT = 2_000


def segment(
    position: np.ndarray | Motion,
    quaternion: np.ndarray | None = None,
    gripper: np.ndarray | None = None,
    *,
    extra: np.ndarray | None = None,
    penalty: float | int | None = None,
    n_change_points: int | None = None,
    free: Sequence[int] | np.ndarray = (),
    min_size: int = MIN_SIZE,
    max_segment: int | None = None,
    jump: int = 1,
    **objective: Any,
) -> Int64[np.ndarray, " K"]:
    """Change points of a motion: the exact minimum of M3.

    Minimises Σ_segments Σ_{i in segment} d(m_{t1:t2}, m_{i:i+1}) + penalty · (number of change points), with

        d = - cos(p_{t1:t2}, p_{i:i+1}) - α cos(θ_{t1:t2}, θ_{i:i+1}) - β [sgn g_{t1:t2} = sgn g_{i:i+1}]      (M2)

    over all segmentations, or over those with exactly `n_change_points`.

    Args:
        position: T×3, m, any fixed frame; T×3A for A arms, whose distances add (one segmentation for all). Or a
            `Motion`, then the next arguments are left out.
        quaternion: T×4 (T×4A), unit, wxyz; the sign does not matter. None: no rotation term.
        gripper: T×G, finger positions or openings; each column counts β / (columns per arm). None: no gripper term.
        extra: T×E, further joints or hand channels; their joint displacement enters as one more cosine.
        penalty: price of a change point, in perfectly aligned steps; None: `default_penalty`.
        n_change_points: exactly so many change points instead of a penalty.
        free: samples where a change point has no price, as those of `stroke_starts`; our addition, none in the paper.
        min_size: least number of samples in a segment.
        max_segment: greatest number of samples in a segment; None: no bound up to 10,000 samples, else 2,000. Time
            is O(T · max_segment), memory O(T).
        jump: change points only at multiples of this.
        **objective: alpha, beta, extra_weight, rest, smooth, dead_band and reduction of `Objective`; the defaults are
            the paper's.

    Returns:
        int64[K], ascending; change point k is the first sample of a new segment. 0 and T are not among them. Empty
        for fewer than two samples and for recordings in which nothing moves, where neither max_segment nor
        n_change_points asks for some.

    Raises:
        EpisodeError: bad signals.
        ConfigError: no segmentation satisfies min_size, max_segment, jump and n_change_points.

    Source: M1-M3 of docs/METHOD.md; arXiv 2602.12032. Exact search as in optimal partitioning (Jackson et al. 2005).

    >>> corner = np.zeros((21, 3))
    >>> corner[:11, 0], corner[11:, 0] = np.linspace(0, 0.1, 11), 0.1
    >>> corner[10:, 1] = np.linspace(0, 0.1, 11)
    >>> segment(corner, penalty=1.0)
    array([10])
    """
    motion = position if isinstance(position, Motion) else Motion.of(position, quaternion, gripper, extra)
    goal = Objective(**objective)
    steps = len(motion)
    if max_segment is None:
        max_segment = max(steps, 1) if steps <= EXACT_UP_TO else LONG_SEGMENT
    elif max_segment < min_size:
        raise ConfigError(f"max_segment {max_segment} is below min_size {min_size}")
    if n_change_points is not None:
        if penalty is not None or len(free):
            raise ConfigError("with n_change_points there is no penalty; leave penalty and free out")
        return _with_number(motion, goal, n_change_points, min_size, max_segment, jump)
    if steps < 2 * min_size and steps <= max_segment:
        return np.zeros(0, np.int64)
    from gap_vla.phases.search import optimal_with_prices

    prices = np.full(steps, float(default_penalty([motion]) if penalty is None else penalty))
    free = np.asarray(free, np.int64)
    prices[free - free % jump] = 0.0  # a free sample between multiples of `jump` is the one before
    start = np.full(steps + 1, -1)
    cost = optimal_with_prices(goal.tables(motion), prices, start, min_size, max_segment, jump, goal.mean)
    if not np.isfinite(cost):
        raise ConfigError(
            f"{motion.where}: {steps} samples cannot be cut into segments of {min_size} to {max_segment} samples at "
            f"multiples of {jump}; raise max_segment, or lower min_size or jump"
        )
    points, end = [], steps
    while (end := int(start[end])) > 0:
        points.append(end)
    return np.array(points[::-1], np.int64)


def _with_number(
    motion: Motion, goal: Objective, number: int, min_size: int, max_segment: int, jump: int
) -> Int64[np.ndarray, " K"]:
    steps = len(motion)
    if number == 0 and steps <= max_segment:
        return np.zeros(0, np.int64)
    cost = np.inf
    if (number + 1) * min_size <= steps:
        from gap_vla.phases.search import optimal_table

        start = np.full((number + 1, steps + 1), -1, np.int32)
        cost = optimal_table(goal.tables(motion), number, start, min_size, max_segment, jump, goal.mean)
    if not np.isfinite(cost):
        raise ConfigError(
            f"{motion.where}: {number} change points do not fit {steps} samples with min_size {min_size}, max_segment "
            f"{max_segment}, jump {jump}; lower n_change_points, min_size or jump, or raise max_segment"
        )
    points, end = np.zeros(number, np.int64), steps
    for row in range(number, 0, -1):
        end = points[row - 1] = start[row, end]
    return points
