"""What counts as motion: noise measured in the recordings, smoothing, and dead-bands that follow from both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import EpisodeError
from gap_vla.phases.motion import DeadBand, Motion, flat_rows, relative_rotation_vector, steps_of

RESTING_STEP = 4.0
"""95 % of the steps of a resting 3-D signal with noise σ per coordinate are shorter than 3.95 σ (χ² with 3 d.o.f.)."""

DISTURBED_STEP = 5.1
"""The same for a random walk, in units of what `noise_level` finds in it: 2.795 s where it finds s √(6 / 20)."""

HELD = 0.25
"""rad. An orientation that never leaves this range (half the recordings) is held: its wobble is not motion."""

NOISE_SHARE = 0.2
"""The resting steps of a smoothed recording should be below this share of its fast steps."""

WINDOWS = (1, 3, 5, 7, 9, 11)

SAMPLES_PER_WINDOW = 15
"""A window may not take more than one in so many samples, or it would wipe out phases of short recordings."""

JOINT_WINDOW = 7
"""Joints are always smoothed: the speed of each changes all the time, and so would the direction of their steps."""

SAMPLES_PER_JOINT_WINDOW = 9
"""As `SAMPLES_PER_WINDOW`, of joints."""

FLOOR = DeadBand(position=1e-6, rotation=1e-5, gripper=1e-6, extra=1e-6)
"""Rounding of float32 recordings: less than this is never motion, however quiet the recording is."""

SLOW_STEP = 0.05
"""A step below this share of the fast steps (the 95 % quantile of their lengths) is drift, not motion."""

LEVER = 0.1
"""m from wrist to fingertip: how far away a point is whose displacement says whether a rotation matters."""

SLOW_TURN = 0.15
"""A rotation that moves the point at `LEVER` by less than this share of a fast translation is compliance."""


def noise_level(steps: Float[np.ndarray, "N ..."]) -> float:
    """Standard deviation of one coordinate's sample noise, from the steps alone.

    White noise σ makes third differences of the samples with variance 20 σ²; smooth motion makes almost none, and the
    median absolute deviation ignores the few steps at which the motion changes. 0 for fewer than 4 samples.
    """
    third = np.diff(flat_rows(steps), n=2, axis=0)
    if third.size == 0:
        return 0.0
    spread = np.median(np.abs(third), axis=0) / 0.6745
    return float(np.sqrt(np.mean(spread**2) / 20.0))


def rotation_is_held(motions: Sequence[Motion]) -> bool:
    """Whether orientations stay within `HELD` of their first one, noise aside, in half of the recordings."""
    ranges = []
    for motion in motions:
        if motion.quaternion is not None and len(motion):
            rotation = steps_of(motion).rotation
            assert rotation is not None
            q = motion.quaternion.reshape(len(motion), motion.arms, 4)
            widest = float(np.linalg.norm(relative_rotation_vector(q[:1], q), axis=-1).max())
            ranges.append(widest - RESTING_STEP * noise_level(rotation))
    return not ranges or float(np.median(ranges)) < HELD


def is_disturbed(steps: Float[np.ndarray, "N ..."]) -> bool:
    """Whether what looks like noise is motion: random displacements that add up, as under noisy actions.

    Noise of measurement is the same over any interval; a random walk's grows as the root of the interval. So
    `noise_level` of every second sample is compared with that of all: 1 or √2 times as much, whichever is nearer.
    """
    flat = flat_rows(steps)
    pairs = flat[: len(flat) // 2 * 2].reshape(len(flat) // 2, 2, flat.shape[1]).sum(axis=1)
    return noise_level(pairs) > 2**0.25 * noise_level(flat)


def resting_step(steps: Float[np.ndarray, "N ..."], window: int) -> float:
    """The length below which 95 % of a resting recording's steps stay after smoothing over `window` samples: 4 σ / w
    with σ the `noise_level` of the raw steps, 5.1 σ / √w where the motion itself is disturbed."""
    sigma = noise_level(steps)
    return DISTURBED_STEP * sigma / window**0.5 if is_disturbed(steps) else RESTING_STEP * sigma / window


def smooth_motion(motion: Motion, window: int) -> Motion:
    """Positions, extra columns and orientations averaged over `window` samples, centred; grippers as they are.

    Near the ends the window shrinks symmetrically. Orientations are averaged as unit quaternions of one hemisphere (the
    chordal mean) and are normalised again.

    Args:
        window: an odd number.
    """
    if window == 1 or len(motion) < 3:
        return motion
    quaternion = None
    if motion.quaternion is not None:
        q = motion.quaternion.reshape(len(motion), -1, 4)
        flips = np.where((q[1:] * q[:-1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
        q = q * np.concatenate([np.ones((1, *flips.shape[1:])), np.cumprod(flips, axis=0)])
        q = moving_average(q.reshape(len(motion), -1), window).reshape(q.shape)
        quaternion = (q / np.linalg.norm(q, axis=-1, keepdims=True)).reshape(len(motion), -1)
    return dataclasses.replace(
        motion,
        position=moving_average(motion.position, window),
        quaternion=quaternion,
        extra=None if motion.extra is None else moving_average(motion.extra, window),
    )


def moving_average(values: Float[np.ndarray, "T c"], window: int) -> Float[np.ndarray, "T c"]:
    """Centred mean over at most `window` rows, fewer towards the ends."""
    n = len(values)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    i = np.arange(n)
    half = np.minimum(np.minimum(i, n - 1 - i), window // 2)
    return (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)[:, None]


def default_window(motions: Sequence[Motion]) -> int:
    """The least odd window, up to 11, whose smoothed resting steps are below 20 % of the smoothed fast steps; 1 for
    recordings of fewer than 45 samples. Position decides, and rotation where it is not held. Of joints: `JOINT_WINDOW`,
    where recordings are long enough."""
    motions = [motion for motion in motions if len(motion) > 3]
    if not motions:
        return 1
    if motions[0].joints:
        longest = float(np.median([len(motion) for motion in motions])) / SAMPLES_PER_JOINT_WINDOW
        return max(window for window in WINDOWS if window == 1 or window <= min(longest, JOINT_WINDOW))
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


def fast_step(steps: Sequence[Float[np.ndarray, "_ _ _"]]) -> float:
    """The 95 % quantile of the step lengths, median over recordings."""
    return float(np.median([np.quantile(np.linalg.norm(s, axis=-1), 0.95) for s in steps]))


def default_dead_band(motions: Iterable[Motion], *, smooth: int = 1) -> DeadBand:
    """max(resting steps, 5 % of the fast steps, rounding), and two more rules for rotations.

    Resting steps are `resting_step` at the window, at most half a fast step; fast steps are the 95 % quantile of step
    lengths after smoothing; both are medians over the recordings. A rotation must move a point 0.1 m away by at least
    15 % of a fast translation, and the band is π (no rotation counts) where orientations are held.

    Args:
        motions: one recording or all of a data set, not smoothed.
        smooth: window with which they will be smoothed.

    Returns:
        DeadBand in m, rad, gripper units, extra units.

    >>> still_then_fast = np.concatenate([np.zeros(20), np.arange(20)])[:, None] * [[0.01, 0.0, 0.0]]
    >>> round(default_dead_band([Motion.of(still_then_fast)]).position, 6)
    0.0005
    """
    if not (motions := list(motions)):
        raise EpisodeError("no recordings; dead-bands follow their steps")
    noise: dict[str, list[float]] = {name: [] for name in DeadBand._fields}
    fast: dict[str, list[float]] = {name: [] for name in DeadBand._fields}
    for motion in motions:
        smoothed = steps_of(smooth_motion(motion, smooth))
        for name, value in steps_of(motion)._asdict().items():
            if value is None or len(value) == 0:
                continue
            after = getattr(smoothed, name)
            lengths = np.abs(after) if name == "gripper" else np.linalg.norm(after, axis=-1)
            noise[name].append(resting_step(value, 1 if name == "gripper" else smooth))
            fast[name].append(float(np.quantile(lengths, 0.95)))
    bands = []
    for name, floor in zip(DeadBand._fields, FLOOR):
        if not fast[name]:
            bands.append(floor)
            continue
        resting, quick = float(np.median(noise[name])), float(np.median(fast[name]))
        bands.append(max(min(resting, 0.5 * quick), SLOW_STEP * quick, floor))
    band = DeadBand(*bands)
    if not fast["rotation"]:
        return band
    if rotation_is_held(motions):
        return band._replace(rotation=float(np.pi))
    relevant = SLOW_TURN * float(np.median(fast["position"])) / LEVER
    return band._replace(rotation=max(band.rotation, relevant))


def as_dead_band(value: DeadBand | Mapping[str, float] | None, motion: Motion, smooth: int = 1) -> DeadBand:
    """The dead-band that a caller means; None follows the recording's own noise, and so does what a mapping omits."""
    if isinstance(value, DeadBand):
        return value
    return default_dead_band([motion], smooth=smooth)._replace(**(value or {}))
