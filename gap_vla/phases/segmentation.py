"""M3: where the motion changes, by exact optimal partitioning."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from multiprocessing import parent_process
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from gap_vla.core.foreign import whole
from gap_vla.core.progress import PATIENCE, Progress
from gap_vla.phases.motion import DeadBand, Motion, MotionError, is_amount
from gap_vla.phases.objective import Objective, default_penalty

T = TypeVar("T")

MIN_SIZE = 3
"""Default least number of samples of a segment."""

EXACT_UP_TO = 10_000
"""Recordings up to this long are searched without a bound on the segment; longer ones with `LONG_SEGMENT`."""

LONG_SEGMENT = 2_000

MILLION = 1_000_000

PAIRS_WORTH_A_THREAD = MILLION
"""Below this many segments a search takes less than a second, and starting a thread (0.1 ms) would be felt."""

ASK = 0.1
"""Seconds between two looks whether a search has ended."""


def segment(
    position: np.ndarray | Motion,
    quaternion: np.ndarray | None = None,
    gripper: np.ndarray | None = None,
    *,
    extra: np.ndarray | None = None,
    penalty: float | int | None = None,
    n_change_points: int | None = None,
    free: Sequence[int] | np.ndarray = (),
    alpha: float | int = 1.0,
    beta: float | int = 2e-3,
    extra_weight: float | int = 1.0,
    rest: float | int = 0.0,
    smooth: int = 1,
    min_size: int = MIN_SIZE,
    max_segment: int | None = None,
    jump: int = 1,
    dead_band: DeadBand | Mapping[str, float] | Sequence[float] | None = None,
    reduction: str = "sum",
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
        alpha, beta, extra_weight, rest, smooth, dead_band, reduction: see `Objective`; the defaults are the paper's.

    Returns:
        int64[K], ascending; change point k is the first sample of a new segment. 0 and T are not among them. Empty
        for fewer than two samples and for recordings in which nothing moves, where neither max_segment nor
        n_change_points asks for some.

    Raises:
        MotionError: bad signals, or no segmentation satisfies min_size, max_segment, jump and n_change_points.

    Source: M1-M3 of docs/METHOD.md; arXiv 2602.12032. Exact search as in optimal partitioning (Jackson et al. 2005).

    >>> corner = np.zeros((21, 3))
    >>> corner[:11, 0], corner[11:, 0] = np.linspace(0, 0.1, 11), 0.1
    >>> corner[10:, 1] = np.linspace(0, 0.1, 11)
    >>> segment(corner, penalty=1.0)
    array([10])
    """
    motion = as_motion(position, quaternion, gripper, extra)
    objective = Objective(alpha, beta, extra_weight, rest, smooth, dead_band, reduction)
    bounds = _checked_bounds(len(motion), min_size, max_segment, jump)
    if n_change_points is not None:
        if penalty is not None:
            raise MotionError("give penalty or n_change_points, not both")
        if len(free):
            raise MotionError("free samples are those without the penalty; with n_change_points there is no penalty")
        return _with_number(motion, objective, n_change_points, bounds)
    if penalty is None:
        penalty = default_penalty([motion])
    elif not is_amount(penalty):
        raise MotionError(f"penalty must be a number, finite and not negative, got {penalty!r:.60}")
    if len(motion) < 2 * bounds[0] and len(motion) <= bounds[1]:
        return np.zeros(0, np.int64)
    from gap_vla.phases.search import optimal_with_prices

    prices = _prices(len(motion), float(penalty), free, bounds[2])
    start = np.full(len(motion) + 1, -1)
    cost = _searched(optimal_with_prices, motion, prices, start, bounds, objective)
    if not np.isfinite(cost):
        raise MotionError(
            f"{motion.where}: {len(motion)} samples cannot be cut into segments of {min_size} to {bounds[1]} samples "
            f"at multiples of {jump}; raise max_segment or lower min_size or jump"
        )
    points, end = [], len(motion)
    while (end := int(start[end])) > 0:
        points.append(end)
    return np.array(points[::-1], np.int64)


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


def _with_number(motion: Motion, objective: Objective, number: int, bounds: tuple[int, int, int]) -> np.ndarray:
    min_size, max_segment, jump = bounds
    number = whole("n_change_points", number, 0, 2**31, MotionError)
    if number == 0 and len(motion) <= max_segment:
        return np.zeros(0, np.int64)
    if (number + 1) * min_size > len(motion):
        room = max(len(motion) // min_size - 1, 0)
        raise MotionError(
            f"{motion.where}: {number} change points do not fit: {len(motion)} samples with min_size {min_size} "
            f"hold at most {room}; lower {'n_change_points or ' * (number > 0)}min_size"
        )
    from gap_vla.phases.search import optimal_table

    start = np.full((number + 1, len(motion) + 1), -1, np.int32)
    cost = _searched(optimal_table, motion, number, start, bounds, objective)
    if not np.isfinite(cost):
        raise MotionError(
            f"{motion.where}: {number} change points do not fit {len(motion)} samples with min_size {min_size}, "
            f"max_segment {max_segment}, jump {jump}; lower min_size or jump, or raise max_segment"
        )
    points, end = np.zeros(number, np.int64), len(motion)
    for row in range(number, 0, -1):
        end = points[row - 1] = start[row, end]
    return points


def _searched(
    search: Callable[..., float],
    motion: Motion,
    price_or_number: np.ndarray | int,
    start: np.ndarray,
    bounds: tuple[int, int, int],
    objective: Objective,
) -> float:
    """The cost that a compiled search finds, which fills `start`. What takes long runs in a thread of its own, without
    Python's lock, so that Ctrl-C is heard and stderr says how far it is; not in a worker, whose parent does."""
    arguments = objective.tables(motion), price_or_number, start, *bounds, objective.mean
    total = _pairs(len(motion), bounds)
    if total < PAIRS_WORTH_A_THREAD or parent_process() is not None:
        return search(*arguments)
    what = f"change points of {motion.where}, {len(motion):,} samples"
    progress = Progress(what, total // MILLION, "million pair", after=PATIENCE, out=sys.stderr)

    def say() -> None:
        ends = start if start.ndim == 1 else start.max(axis=0)
        progress.update(_pairs(int(np.flatnonzero(ends >= 0).max(initial=0)), bounds) // MILLION)

    return interruptible(lambda: search(*arguments), say)


def interruptible(work: Callable[[], T], meanwhile: Callable[[], None]) -> T:
    """What `work` returns, done in a thread of its own: Ctrl-C is heard and `meanwhile` called every tenth of a second,
    also where `work` waits in compiled code, which then goes on until it or the program ends."""
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as problem:
            found.set_exception(problem)

    threading.Thread(target=run, daemon=True).start()
    while not wait([found], ASK).done:
        meanwhile()
    return found.result()


def _pairs(end: int, bounds: tuple[int, int, int]) -> int:
    """How many segments are looked at up to an end."""
    _, most, jump = bounds
    whole_ones = min(end, most)
    return (whole_ones * (whole_ones + 1) // 2 + (end - whole_ones) * most) // jump**2


def _prices(steps: int, penalty: float, free: Sequence[int] | np.ndarray, jump: int) -> np.ndarray:
    """f64[T]: what a change point at each sample costs; a free sample between multiples of `jump` is the one before."""
    prices = np.full(steps, penalty)
    if np.size(free) and np.asarray(free).dtype.kind not in "iu":
        raise MotionError(f"free is {np.asarray(free).dtype}; give the numbers of samples, as of stroke_starts")
    at = np.asarray(free, np.int64).ravel()
    if len(at) and not 0 <= at.min() <= at.max() < steps:
        raise MotionError(f"free samples {at.tolist()} must lie within the {steps} of the recording")
    prices[at - at % jump] = 0.0
    return prices


def _checked_bounds(steps: int, min_size: int, max_segment: int | None, jump: int) -> tuple[int, int, int]:
    for what, number in {"min_size": min_size, "jump": jump, "max_segment": max_segment}.items():
        if number is not None:
            whole(what, number, 1, 2**31, MotionError)
    if max_segment is None:
        max_segment = steps if steps <= EXACT_UP_TO else LONG_SEGMENT
    elif max_segment < min_size:
        raise MotionError(f"max_segment {max_segment} is below min_size {min_size}")
    return int(min_size), int(max(max_segment, 1)), int(jump)
