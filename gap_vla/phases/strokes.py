"""Where a hand begins to open or to close: the one change of motion that a gripper's signal shows for certain."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from gap_vla.phases.motion import Motion, steps_of
from gap_vla.phases.smoothing import resting_step

STROKE = 0.25
"""A stroke moves a finger by at least this share of the range that it has in a recording; less is settling."""

CREEP = 0.03
"""Steps below this share of the recording's greatest are creep under load, not part of a stroke."""


def stroke_starts(motion: Motion, travel: float | int) -> Int64[np.ndarray, " K"]:
    """The samples from which a hand opens or closes, ascending; of all arms together.

    A stroke is a run of steps of one sign, each longer than the resting steps and than 3 % of the recording's
    greatest, of the arm's column that moves most. It counts if it goes at least `travel`, and twice as far as a
    resting finger seems to move.

    Args:
        motion: a recording; without a gripper there are no strokes.
        travel: gripper units; 0 switches strokes off.

    >>> fingers = np.concatenate([np.full(5, 0.04), np.linspace(0.04, 0.0, 5), np.zeros(5)])
    >>> stroke_starts(Motion.of(np.zeros((15, 3)), gripper=fingers), travel=0.01)
    array([5])
    """
    steps = steps_of(motion).gripper
    if steps is None or len(steps) == 0 or travel <= 0:
        return np.zeros(0, np.int64)
    starts: list[int] = []
    for arm in np.split(steps, motion.arms, axis=1):
        finger = arm[:, int(np.argmax(_ranges(arm)))]
        resting = resting_step(finger[:, None], 1)
        size = np.abs(finger)
        quick = float(np.quantile(size, 0.95))
        begun = size > max(min(resting, 0.5 * quick), CREEP * float(size.max()))
        sign = np.sign(finger) * begun
        edges = np.flatnonzero(np.diff(np.concatenate([[0.0], sign, [0.0]])))
        far = max(float(travel), 2 * resting)
        starts += [int(a) for a, b in itertools.pairwise(edges) if sign[a] and abs(finger[a:b].sum()) >= far]
    return np.unique(np.array(starts, np.int64))


def default_stroke(motions: Sequence[Motion]) -> float:
    """A quarter of the range of the finger that moves most, median over the recordings; 0 without grippers."""
    ranges = []
    for motion in motions:
        steps = steps_of(motion).gripper
        if steps is not None and len(steps):
            ranges.append(float(_ranges(steps).max()))
    return STROKE * float(np.median(ranges)) if ranges else 0.0


def _ranges(steps: Float[np.ndarray, "N G"]) -> Float[np.ndarray, " G"]:
    """How far each column ever is from where it ever was."""
    return np.ptp(np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)]), axis=0)
