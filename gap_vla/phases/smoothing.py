"""Moving averages for recordings whose steps are as short as their noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.phases.motion import (
    DISTURBED_STEP,
    RESTING_STEP,
    Motion,
    MotionError,
    noise_level,
    rotation_is_held,
    steps_of,
)

NOISE_SHARE = 0.2
"""The resting steps of a smoothed recording should be below this share of its fast steps."""

WINDOWS = (1, 3, 5, 7, 9, 11)

SAMPLES_PER_WINDOW = 15
"""A window may not take more than one in so many samples, or it would wipe out phases of short recordings."""


def smooth_motion(motion: Motion, window: int) -> Motion:
    """Positions, extra columns and orientations averaged over `window` samples, centred; grippers as they are.

    Near the ends the window shrinks symmetrically, so end points stay and reversing time commutes with smoothing.
    Orientations are averaged as unit quaternions of one hemisphere (the chordal mean, for the small angles inside a
    window) and are normalised again.

    Raises:
        MotionError: the window is not an odd positive number.
    """
    if window < 1 or window % 2 == 0:
        raise MotionError(f"smooth is an odd number of samples, not {window}")
    if window == 1 or len(motion) < 3:
        return motion
    quaternion = None
    if motion.quaternion is not None:
        q = motion.quaternion.reshape(len(motion), -1, 4)
        flips = np.where((q[1:] * q[:-1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
        q = q * np.concatenate([np.ones((1, *flips.shape[1:])), np.cumprod(flips, axis=0)])
        q = moving_average(q.reshape(len(motion), -1), window).reshape(q.shape)
        quaternion = (q / np.linalg.norm(q, axis=-1, keepdims=True)).reshape(len(motion), -1)
    return Motion(
        moving_average(motion.position, window),
        quaternion,
        motion.gripper,
        None if motion.extra is None else moving_average(motion.extra, window),
        motion.where,
    )


def moving_average(values: Float[np.ndarray, "T c"], window: int) -> Float[np.ndarray, "T c"]:
    """Centred mean over at most `window` rows, fewer towards the ends.

    >>> moving_average(np.array([[0.0], [3.0], [0.0]]), 3).ravel()
    array([0., 1., 0.])
    """
    n = len(values)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    i = np.arange(n)
    half = np.minimum(np.minimum(i, n - 1 - i), window // 2)
    return (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)[:, None]


def default_window(motions: Sequence[Motion]) -> int:
    """The least odd window, up to 11, whose smoothed resting steps are below 20 % of the smoothed fast steps.

    How long resting steps still are after smoothing: `resting_step`. Clean recordings get 1, that is, no smoothing, and
    so do recordings of fewer than 45 samples. Position decides, and rotation where it is not held.
    """
    motions = [motion for motion in motions if len(motion) > 3]
    if not motions:
        return 1
    raw = [steps_of(motion) for motion in motions]
    names = ["position"] if rotation_is_held(motions) else ["position", "rotation"]
    longest = float(np.median([len(motion) for motion in motions])) / SAMPLES_PER_WINDOW
    windows = [window for window in WINDOWS if window == 1 or window <= longest]
    for window in windows:
        smoothed = [steps_of(smooth_motion(motion, window)) for motion in motions]
        if all(
            float(np.median([resting_step(getattr(s, name), window) for s in raw]))
            <= NOISE_SHARE * fast_step([getattr(s, name) for s in smoothed])
            for name in names
        ):
            return window
    return windows[-1]


def is_disturbed(steps: Float[np.ndarray, "N ..."]) -> bool:
    """Whether what looks like noise is motion: random displacements that add up, as under noisy actions.

    Noise of measurement is the same over any interval; a random walk's grows as the root of the interval. So
    `noise_level` of every second sample is compared with that of all: 1 or √2 times as much, whichever is nearer.

    >>> rng = np.random.default_rng(0)
    >>> walk, white = np.cumsum(rng.normal(size=(400, 3)), axis=0), rng.normal(size=(400, 3))
    >>> is_disturbed(np.diff(walk, axis=0)), is_disturbed(np.diff(white, axis=0))
    (True, False)
    """
    flat = steps.reshape(len(steps), math.prod(steps.shape[1:]))
    pairs = flat[: len(flat) // 2 * 2].reshape(len(flat) // 2, 2, flat.shape[1]).sum(axis=1)
    return noise_level(pairs) > 2**0.25 * noise_level(flat)


def resting_step(steps: Float[np.ndarray, "N ..."], window: int) -> float:
    """The length below which 95 % of the steps of a resting recording stay after smoothing over `window` samples.

    4 σ / w for noise of measurement, σ the `noise_level` of the raw steps; 5.1 σ / √w where the motion itself is
    disturbed (`is_disturbed`), which smoothing averages but does not cancel.
    """
    sigma = noise_level(steps)
    if is_disturbed(steps):
        return DISTURBED_STEP * sigma / window**0.5
    return RESTING_STEP * sigma / window


def fast_step(steps: Sequence[Float[np.ndarray, "_ _ _"]]) -> float:
    """The 95 % quantile of the step lengths, median over recordings."""
    return float(np.median([np.quantile(np.linalg.norm(s, axis=-1), 0.95) for s in steps]))
