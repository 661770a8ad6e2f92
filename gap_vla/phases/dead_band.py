"""Below which lengths nothing moves: dead-bands that follow the data's own noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gap_vla.phases.motion import (
    DeadBand,
    Motion,
    MotionError,
    rotation_is_held,
    steps_of,
)
from gap_vla.phases.smoothing import resting_step, smooth_motion

FLOOR = DeadBand(position=1e-6, rotation=1e-5, gripper=1e-6, extra=1e-6)
"""Rounding of float32 recordings: less than this is never motion, however quiet the recording is."""


SLOW_STEP = 0.05
"""A step below this share of the fast steps (the 95 % quantile of their lengths) is drift, not motion."""

LEVER = 0.1
"""m from wrist to fingertip: how far away a point is whose displacement says whether a rotation matters."""

SLOW_TURN = 0.15
"""A rotation that moves the point at `LEVER` by less than this share of a fast translation is compliance."""


def default_dead_band(motions: Sequence[Motion], *, smooth: int = 1) -> DeadBand:
    """max(resting steps, 5 % of the fast steps, rounding), and two more rules for rotations.

    Resting steps are `resting_step` of the recordings at the window; fast steps are the 95 % quantile of step lengths
    after smoothing; both are medians over the recordings, so one broken recording changes nothing, and both scale with
    the data's unit. Resting steps are capped at half a fast step: where all steps are as short as the noise, something
    must still count.

    A cosine does not know how small a rotation is. So a rotation must move a point 0.1 m away by at least 15 % of a
    fast translation, and the band is π (no rotation counts) where orientations are held (`rotation_is_held`).

    Args:
        motions: one recording or all of a data set, not smoothed.
        smooth: window with which they will be smoothed.

    Returns:
        DeadBand in m, rad, gripper units, extra units.

    >>> still_then_fast = np.concatenate([np.zeros(20), np.arange(20)])[:, None] * [[0.01, 0.0, 0.0]]
    >>> round(default_dead_band([Motion.of(still_then_fast)]).position, 6)
    0.0005
    """
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


def as_dead_band(
    value: DeadBand | Mapping[str, float] | Sequence[float] | None, motion: Motion, smooth: int = 1
) -> DeadBand:
    """The dead-band that a caller means; None follows the recording's own noise, and so does what a mapping omits.

    Raises:
        MotionError: unknown names, or values that are negative or not finite.
    """
    if value is None:
        return default_dead_band([motion], smooth=smooth)
    if isinstance(value, Mapping):
        if unknown := set(value) - set(DeadBand._fields):
            raise MotionError(f"dead_band knows {', '.join(DeadBand._fields)}, not {', '.join(sorted(unknown))}")
        band = default_dead_band([motion], smooth=smooth)._replace(**value)
    else:
        band = DeadBand(*value)
    if not all(np.isfinite(band)) or min(band) < 0:
        raise MotionError(f"dead_band must be finite and not negative, got {band}")
    return band
