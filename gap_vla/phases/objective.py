"""What M3 minimises: the terms of M2 with their weights and dead-bands, and what a change point costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from jaxtyping import Float, Int64
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gap_vla.core.config import STRICT
from gap_vla.core.errors import ConfigError, EpisodeError
from gap_vla.phases.motion import Amount, DeadBand, Motion, steps_of, unit_steps
from gap_vla.phases.noise import as_dead_band, resting_step, smooth_motion

if TYPE_CHECKING:
    from gap_vla.phases.search import Tables

SAMPLES_PER_UNIT = 80
LEAST_PENALTY, MOST_PENALTY = 0.5, 2.0
JOINT_PRICE = 0.75
SAMPLES_PER_LEAST_SEGMENT, SAMPLES_PER_PILOT_SEGMENT = 11, 18
SHORTEST_SEGMENT, LONGEST_LEAST_SEGMENT = 2, 6
SAMPLES_PER_PHASE = 14

STROKE = 0.25
"""A stroke moves a finger by at least this share of the range that it has in a recording; less is settling."""

CREEP = 0.03
"""Steps below this share of the recording's greatest are creep under load, not part of a stroke."""


def _odd(window: int) -> int:
    if window % 2 == 0:
        raise ConfigError(f"smooth is an odd number of samples, not {window}")
    return window


Odd = Annotated[int, Field(ge=1), AfterValidator(_odd)]


@dataclass(frozen=True, config=STRICT)
class Objective:
    """Weights and options of M2 and M3."""

    alpha: Amount = 1.0
    """Weight of the rotation term (paper: 1)."""
    beta: Amount = 2e-3
    """Weight of the gripper term (paper: 2e-3); each column counts beta / (columns per arm)."""
    extra_weight: Amount = 1.0
    """Weight of the extra columns' term."""
    rest: Amount = 0.0
    """Our addition, 0 in the paper: if positive, a segment whose mean step is within the dead-band may count as a pause
    instead, -rest for each of its steps without motion, where that is the lower cost."""
    smooth: Odd = 1
    """Odd number of samples over which signals are averaged before (`smooth_motion`); 1: not at all."""
    dead_band: DeadBand | Mapping[str, Amount] | None = None
    """(position m, rotation rad, gripper units, extra units) below which nothing moves; a mapping sets some of them;
    None: `default_dead_band` of the recording."""
    reduction: Literal["sum", "mean"] = "sum"
    """Over a segment's steps: "sum" (paper) or "mean" (the authors' release)."""

    @property
    def mean(self) -> bool:
        return self.reduction == "mean"

    def tables(self, motion: Motion) -> Tables:
        """Prefix sums of the unit steps and of the sign counts, from which any segment costs O(1)."""
        from gap_vla.phases.search import Tables

        band = as_dead_band(self.dead_band, motion, self.smooth)
        motion = smooth_motion(motion, self.smooth)
        steps = unit_steps(motion, band)
        arms = motion.arms
        vectors, offsets = motion.position, list(range(0, motion.width * arms + 1, motion.width))
        weights, dead = [1.0] * arms, [band.position] * arms
        if motion.extra is not None and motion.extra.shape[1]:
            vectors = np.concatenate([vectors, motion.extra], axis=1)
            offsets.append(vectors.shape[1])
            weights.append(self.extra_weight)
            dead.append(band.extra)
        timed = motion.position.shape[1] if motion.joints else 0
        n, columns = len(motion), steps.sign.shape[1]
        resting = [~steps.vectors[:, a:b].any(axis=1) for a, b in itertools.pairwise(offsets)]
        is_sign = steps.sign[:, :, None] == np.array([-1, 0, 1], np.int8)
        return Tables(
            vectors=np.ascontiguousarray(vectors),
            vector_sums=_prefix(steps.vectors, np.float64),
            timed_sums=_prefix(np.arange(len(steps.vectors))[:, None] * steps.vectors[:, :timed], np.float64),
            offsets=np.array(offsets, np.int64),
            weights=np.array(weights, np.float64),
            vector_dead=np.array(dead, np.float64),
            rest=float(self.rest),
            rest_sums=_prefix(np.stack(resting, axis=1), np.float64),
            quaternions=np.zeros((n, 0)) if motion.quaternion is None else np.ascontiguousarray(motion.quaternion),
            rotation_sums=_prefix(steps.rotation, np.float64),
            alpha=float(self.alpha),
            rotation_dead=float(np.sin(min(band.rotation, np.pi) / 2)),
            gripper=np.zeros((n, 0)) if motion.gripper is None else np.ascontiguousarray(motion.gripper),
            sign_counts=_prefix(is_sign.reshape(len(is_sign), 3 * columns), np.int32),
            sign_weight=float(self.beta) * arms / max(columns, 1),
            gripper_dead=float(band.gripper),
        )


def _prefix(steps: np.ndarray, dtype: Any) -> np.ndarray:
    sums = np.zeros((len(steps) + 1, steps.shape[1]), dtype)
    np.cumsum(steps, axis=0, out=sums[1:], dtype=dtype)
    return sums


def default_penalty(motions: Iterable[Motion], scale: int = 1) -> float:
    """T / 80, at least 0.5 and at most 2, times `price_factor`; T is the median number of samples.

    The gain of a true turn is a number of steps (a right-angle turn of n + n steps gains 0.59 n), which grows with the
    sampling rate and the number of arms; length stands for the rate. Measured in docs/PHASE_BENCHMARK.md.

    Args:
        motions: one recording, or a data set.
        scale: so many samples count as one (`time_scale`).

    Returns:
        Penalty in units of one perfectly aligned step.

    >>> default_penalty([Motion.of(np.zeros((100, 3)))])
    1.25
    """
    if not (motions := list(motions)):
        raise EpisodeError("no recordings; a penalty follows their lengths")
    samples = median_length(motions) / scale
    return scale * float(np.clip(samples / SAMPLES_PER_UNIT, LEAST_PENALTY, MOST_PENALTY)) * price_factor(motions)


def price_factor(motions: Iterable[Motion]) -> float | int:
    """The number of arms; of joints three quarters of it, since a direction that may turn leaves less to gain."""
    return max((motion.arms * (JOINT_PRICE if motion.joints else 1) for motion in motions), default=1)


def default_min_size(motions: Sequence[Motion], scale: int = 1) -> int:
    """T / 11 samples, at least 2 and at most 6, with T the median number of samples; `scale` as in `default_penalty`.

    >>> [default_min_size([Motion.of(np.zeros((steps, 3)))]) for steps in (20, 40, 100)]
    [2, 3, 6]
    """
    least = median_length(motions) / scale // SAMPLES_PER_LEAST_SEGMENT
    return scale * int(np.clip(least, SHORTEST_SEGMENT, LONGEST_LEAST_SEGMENT))


def median_length(motions: Sequence[Motion]) -> float:
    """Samples of a recording; 0 without any."""
    return float(np.median([len(motion) for motion in motions])) if motions else 0.0


def phase_length(lengths: Iterable[int], change_points: Iterable[np.ndarray]) -> float:
    """Samples of the median phase of some recordings; 1 without any.

    >>> phase_length([60, 300], [np.array([14, 28, 42]), np.array([140])])
    16.0
    """
    phases = [np.diff([0, *points, length]) for length, points in zip(lengths, change_points, strict=True) if length]
    return float(np.median(np.concatenate(phases))) if phases else 1.0


def time_scale(phase: float) -> int:
    """How many samples the rules count as one: a fourteenth of the median phase, at least 1. At 20 Hz, where rules and
    LSTM were tuned, it is 1; at 50 Hz, or where each state is logged three times, it is 2 or 3."""
    return max(round(phase / SAMPLES_PER_PHASE), 1)


def stroke_starts(motion: Motion, travel: float | int) -> Int64[np.ndarray, " K"]:
    """The samples from which a hand opens or closes, ascending; of all arms together.

    A stroke is a run of steps of one sign, each longer than the resting steps (or half a fast step, if that is less)
    and than 3 % of the recording's greatest, of the arm's column that moves most. It counts if it goes at least
    `travel`, and twice as far as a resting finger seems to move.

    Args:
        motion: a recording; without a gripper there are no strokes.
        travel: gripper units; 0 switches strokes off.

    >>> fingers = np.concatenate([np.full(5, 0.04), np.linspace(0.04, 0.0, 5), np.zeros(5)])
    >>> stroke_starts(Motion.of(np.zeros((15, 3)), gripper=fingers), travel=0.01)
    array([5])
    """
    steps = steps_of(motion).gripper
    if steps is None or len(steps) == 0 or travel == 0:
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
