"""The compiled half of M3: the cost of a segment in O(1) from prefix sums, and the exact searches over it.

Everything here is numba; `segmentation.py` prepares the arrays. No divisor is 0; to check that doubles the time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

TIE = 1e-9
"""Segmentations whose costs differ by less are equally good (rounding of the prefix sums); the rule then decides."""


class Tables(NamedTuple):
    """What the cost of any segment is computed from. C vector channels, A arms, G gripper columns."""

    vectors: np.ndarray  # f64[T, V], samples of all vector channels
    vector_sums: np.ndarray  # f64[T, V], sum of the unit steps before each sample
    timed_sums: np.ndarray  # f64[T, J], sum of i times unit step i; J columns are joints, the first ones or none
    offsets: np.ndarray  # i64[C + 1], columns of the channels
    weights: np.ndarray  # f64[C]
    vector_dead: np.ndarray  # f64[C], channel units
    rest: float | int  # reward of a resting step in a resting segment, 0 in the paper
    rest_sums: np.ndarray  # f64[T, C], resting steps before each sample
    quaternions: np.ndarray  # f64[T, 4 * A]
    rotation_sums: np.ndarray  # f64[T, 3 * A]
    alpha: float | int
    rotation_dead: float | int  # sin(dead-band / 2): the length of a unit quaternion's vector part at that angle
    gripper: np.ndarray  # f64[T, G]
    sign_counts: np.ndarray  # i32[T, 3 * G], steps with sign -1, 0, +1 before each sample, per column
    sign_weight: float | int  # β per column
    gripper_dead: float | int


@njit(cache=True, nogil=True, error_model="numpy")
def turning_gain(a, e, first, last, t):
    """Σ v_i · (unit step i) over the n steps from sample a to e, in the columns [first, last) of an arm's joints, with
    the v_i, linear in i and of Σ |v_i|² = n, for which it is largest: √(|Σ u|² + |Σ (i - ī) u|² · 12 / (n² - 1))."""
    n = e - a
    middle = (a + e - 1) / 2
    level = 0.0
    slope = 0.0
    for k in range(first, last):
        total = t.vector_sums[e, k] - t.vector_sums[a, k]
        turned = t.timed_sums[e, k] - t.timed_sums[a, k] - middle * total
        level += total * total
        slope += turned * turned
    if n > 1:
        level += slope * 12 / (n * n - 1)
    return np.sqrt(level)


@njit(cache=True, nogil=True, error_model="numpy")
def segment_distance(a, b, t):
    """Σ d of M2/M3 over the steps of samples [a, b): -(u(p_{a:e}) · Σ unit steps) - α(…) - β(count of equal signs).

    The last sample of the recording has no step of its own, so the segment's end sample is e = min(b, T - 1).
    """
    e = min(b, t.vectors.shape[0] - 1)
    total = 0.0
    for c in range(t.weights.shape[0]):
        square = 0.0
        along = 0.0
        for k in range(t.offsets[c], t.offsets[c + 1]):
            d = t.vectors[e, k] - t.vectors[a, k]
            square += d * d
            along += d * (t.vector_sums[e, k] - t.vector_sums[a, k])
        length = np.sqrt(square)
        gain = 0.0
        if t.offsets[c] < t.timed_sums.shape[1]:
            gain = turning_gain(a, e, t.offsets[c], t.offsets[c + 1], t)
        elif length > t.vector_dead[c]:
            gain = along / length
        if t.rest > 0 and length <= t.vector_dead[c] * (e - a):
            gain = max(gain, t.rest * (t.rest_sums[e, c] - t.rest_sums[a, c]))
        total -= t.weights[c] * gain
    for arm in range(t.quaternions.shape[1] // 4):
        q, k, r = t.quaternions, 4 * arm, 3 * arm
        w1, x1, y1, z1 = q[a, k], q[a, k + 1], q[a, k + 2], q[a, k + 3]
        w2, x2, y2, z2 = q[e, k], q[e, k + 1], q[e, k + 2], q[e, k + 3]
        # q_e q_a⁻¹; its vector part points along log(R_e R_aᵀ) once its scalar part is made positive
        x = w1 * x2 - w2 * x1 - (y2 * z1 - z2 * y1)
        y = w1 * y2 - w2 * y1 - (z2 * x1 - x2 * z1)
        z = w1 * z2 - w2 * z1 - (x2 * y1 - y2 * x1)
        length = np.sqrt(x * x + y * y + z * z)
        if length > t.rotation_dead:
            along = (
                x * (t.rotation_sums[e, r] - t.rotation_sums[a, r])
                + y * (t.rotation_sums[e, r + 1] - t.rotation_sums[a, r + 1])
                + z * (t.rotation_sums[e, r + 2] - t.rotation_sums[a, r + 2])
            )
            if w1 * w2 + x1 * x2 + y1 * y2 + z1 * z2 < 0:
                along = -along
            total -= t.alpha * along / length
    for g in range(t.gripper.shape[1]):
        d = t.gripper[e, g] - t.gripper[a, g]
        sign = 0
        if d > t.gripper_dead:
            sign = 1
        elif d < -t.gripper_dead:
            sign = -1
        column = 3 * g + 1 + sign
        total -= t.sign_weight * (t.sign_counts[e, column] - t.sign_counts[a, column])
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def segment_score(a, b, t, mean):
    """`segment_distance`, or its mean per step (the release's reduction)."""
    total = segment_distance(a, b, t)
    if mean:
        steps = min(b, t.vectors.shape[0] - 1) - a
        total /= max(steps, 1)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def optimal_with_prices(t, prices, start, min_size, max_segment, jump, mean):
    """Exact minimum of Σ cost + Σ prices[change points]; f64[T] prices. Memory O(T), time O(T · max_segment / jump²).

    Fills i64[T + 1] `start`, which holds -1: the start of the last segment for every end; of equally good starts the
    earliest is kept. Returns the cost.
    """
    n = t.vectors.shape[0]
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    for b in range(1, n + 1):
        if b != n and b % jump != 0:
            continue
        first = max(0, b - max_segment)
        first += -first % jump
        for a in range(first, b - min_size + 1, jump):
            if np.isinf(best[a]):
                continue
            value = best[a] + segment_score(a, b, t, mean)
            if a > 0:  # the first segment begins with no change point
                value += prices[a]
            if value < best[b] - TIE:
                best[b] = value
                start[b] = a
    return best[n]


@njit(cache=True, nogil=True, error_model="numpy")
def optimal_table(t, number, start, min_size, max_segment, jump, mean):
    """Exact minimum with `number` change points, from one pass over the segments. Memory O(number · T). Fills
    i32[number + 1, T + 1] `start`, likewise for each number of change points."""
    n = t.vectors.shape[0]
    best = np.full((number + 1, n + 1), np.inf)
    for b in range(1, n + 1):
        if b != n and b % jump != 0:
            continue
        first = max(0, b - max_segment)
        first += -first % jump
        for a in range(first, b - min_size + 1, jump):
            score = segment_score(a, b, t, mean)
            if a == 0:
                best[0, b] = score
                start[0, b] = 0
                continue
            for k in range(1, number + 1):
                value = best[k - 1, a] + score
                if value < best[k, b] - TIE:
                    best[k, b] = value
                    start[k, b] = a
    return best[number, n]
