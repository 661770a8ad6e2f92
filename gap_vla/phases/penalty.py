"""The price of a change point when the user names none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gap_vla.phases.motion import DeadBand, Motion, unit_steps

LEAST_PENALTY = 1.0
"""One perfectly aligned step: a right-angle turn then needs two steps on either side to count."""


def default_penalty(motions: Sequence[Motion], dead_band: DeadBand, *, alpha: float = 1.0) -> float:
    """Penalty that clean data keep at 1 and that rises with the scatter of the step directions.

    penalty = max(1, s² · ln N), N the number of steps and s² = Σ over position (and α · rotation) of the median of
    1 - cos between neighbouring moving steps: the mean gain that a split of pure direction noise brings is of that
    order, and the logarithm pays for the choice among N places. The median ignores the true turns.

    Args:
        motions: one recording, or a data set (then the median over its recordings).
        dead_band: as used for the segmentation.
        alpha: weight of the rotation term.

    Returns:
        Penalty in units of one aligned step.

    >>> line = np.linspace(0, 1, 50)[:, None] * [[1.0, 0, 0]]
    >>> default_penalty([Motion.of(line)], DeadBand(1e-6, 1e-5, 1e-6))
    1.0
    """
    values = [_one(motion, dead_band, alpha) for motion in motions]
    return float(np.median(values)) if values else LEAST_PENALTY


def _one(motion: Motion, band: DeadBand, alpha: float) -> float:
    if len(motion) < 3:
        return LEAST_PENALTY
    steps = unit_steps(motion, band)
    scatter = sum(_scatter(steps.vectors[:, 3 * arm : 3 * arm + 3]) for arm in range(motion.arms))
    if steps.rotation.shape[1]:
        scatter += alpha * sum(_scatter(steps.rotation[:, 3 * arm : 3 * arm + 3]) for arm in range(motion.arms))
    return max(LEAST_PENALTY, float(scatter * np.log(len(motion) - 1)))


def _scatter(units: np.ndarray) -> float:
    moving = np.any(units != 0, axis=1)
    pairs = moving[:-1] & moving[1:]
    if not pairs.any():
        return 0.0
    return float(np.median(1 - (units[:-1] * units[1:]).sum(axis=1)[pairs]))
