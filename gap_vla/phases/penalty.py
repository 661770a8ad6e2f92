"""The price of a change point and the least length of a segment when the user names none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gap_vla.phases.motion import Motion

SAMPLES_PER_UNIT = 80
LEAST_PENALTY, MOST_PENALTY = 0.5, 2.0
SAMPLES_PER_LEAST_SEGMENT = 11
SHORTEST_SEGMENT, LONGEST_LEAST_SEGMENT = 2, 6


def default_penalty(motions: Sequence[Motion]) -> float:
    """T / 80, at least 0.5 and at most 2, times the number of arms; T is the median number of samples.

    The gain of a true turn is a number of steps (a right-angle turn of n + n steps gains 0.59 n), so the price must
    follow how many steps a phase has, which a sampling rate changes and a user seldom knows; demonstrations of one
    skill have a similar number of phases, so their length stands for it. Beyond 160 samples recordings have more
    phases rather than slower ones, and below 40 a price under half a step would pay for tremor. Noise does not
    enter: smoothing and dead-bands remove it before. The distances of several arms add, so what a turn gains grows
    with their number. Measured over tasks, rates and noise in docs/PHASES.md.

    Args:
        motions: one recording, or a data set.

    Returns:
        Penalty in units of one perfectly aligned step.

    >>> default_penalty([Motion.of(np.zeros((100, 3)))])
    1.25
    """
    if not motions:
        return LEAST_PENALTY
    samples = float(np.median([len(motion) for motion in motions]))
    arms = max(motion.arms for motion in motions)
    return float(np.clip(samples / SAMPLES_PER_UNIT, LEAST_PENALTY, MOST_PENALTY)) * arms


def default_min_size(motions: Sequence[Motion]) -> int:
    """T / 11 samples, at least 2 and at most 6, with T the median number of samples.

    A segment shorter than that is the rounding of a corner or tremor where samples are dense; where they are sparse
    (few samples per demonstration) two samples can be a phase.

    >>> [default_min_size([Motion.of(np.zeros((steps, 3)))]) for steps in (20, 40, 100)]
    [2, 3, 6]
    """
    samples = float(np.median([len(motion) for motion in motions])) if motions else 0.0
    return int(np.clip(samples // SAMPLES_PER_LEAST_SEGMENT, SHORTEST_SEGMENT, LONGEST_LEAST_SEGMENT))
