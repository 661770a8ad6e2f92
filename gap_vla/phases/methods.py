"""The methods of `annotate`, by name: ways to find change points (M3 and others) and to turn them into ρ (M4, M5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.core.config import STRICT, choose
from gap_vla.core.errors import EpisodeError
from gap_vla.phases.motion import Amount, DeadBand, Motion, unit_steps
from gap_vla.phases.noise import as_dead_band, default_dead_band, default_window, smooth_motion
from gap_vla.phases.objective import (
    SAMPLES_PER_PILOT_SEGMENT,
    SAMPLES_PER_UNIT,
    SHORTEST_SEGMENT,
    Odd,
    default_min_size,
    default_penalty,
    default_stroke,
    median_length,
    phase_length,
    price_factor,
    stroke_starts,
    time_scale,
)
from gap_vla.phases.segmentation import MIN_SIZE, segment
from gap_vla.phases.targets import change_targets, label_changes, soft_targets

LABELS_VERSION = 8
"""Part of the identity of every dataset that holds ρ. Raise it whenever a change of code gives the same episodes,
method, seed and options other change points or ρ."""

LABELS_NAME = f"labels {LABELS_VERSION}"
"""What an annotator's identity says of `LABELS_VERSION`; those of 0.1 to 0.3 say "0.1.0"."""

PILOTS = 16
"""Recordings of a data set on which the length of a phase is measured before."""

Samples = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class Options:
    """Every option of every method except the LSTM's own, which are `EstimatorSettings`.

    Here `smooth` and `dead_band` None follow the data set, and pauses count (`rest` 0.5); see `Objective`.
    """

    penalty: Amount | None = None
    """Price of a change point, in perfectly aligned steps; None follows the data set."""
    n_change_points: Annotated[int, Field(ge=0)] | None = None
    """Exactly so many change points instead of a penalty."""
    alpha: Amount = 1.0
    """Weight of the rotation term."""
    beta: Amount = 2e-3
    """Weight of the gripper term."""
    extra_weight: Amount = 1.0
    """Weight of the extra columns' term."""
    rest: Amount = 0.5
    """What a step of a pause counts; 0 in the paper."""
    smooth: Odd | None = None
    """Odd number of samples over which signals are averaged before."""
    min_size: Samples | None = None
    """Least number of samples of a segment; None follows the data set."""
    scale: Samples | None = None
    """So many samples count as one where penalty, min_size and the LSTM follow the data set; None: a fourteenth of the
    median phase."""
    max_segment: Samples | None = None
    """Greatest number of samples of a segment."""
    jump: Samples = 1
    """Change points only at multiples of this."""
    dead_band: DeadBand | None = None
    """Below these (position m, rotation rad, gripper units, extra units) nothing moves."""
    reduction: Literal["sum", "mean"] = "sum"
    """Of the cost over a segment's steps: "sum" (paper) or "mean" (the authors' release)."""
    stroke: Amount | None = None
    """Where a hand begins to open or close by at least so much (gripper units), a change point has no price; None: a
    quarter of its range; 0: never, as in the paper."""
    arms: Literal["joint", "each"] = "joint"
    """"joint": one segmentation for all arms, their distances add; "each": one per arm, change points united."""
    rho: Literal["lstm", "hard", "gaussian", "fixed"] = "gaussian"
    """How hdbscan, cotpc and column make ρ of their change points."""
    sigma: Annotated[float | int, Field(gt=0)] = 4.0
    """Width of the bumps of "gaussian", steps."""
    value: Annotated[float | int, Field(ge=0, le=1)] = 0.5
    """ρ of "fixed"."""
    window: Samples = 4
    """Steps before and after over which cotpc compares directions."""
    threshold: Annotated[float | int, Field(ge=-1, le=1)] = 0.5
    """Cosine below which cotpc sees a key state."""
    cluster_size: Annotated[int, Field(ge=2)] = 8
    """Least cluster of hdbscan, steps."""

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"dead_band": None if self.dead_band is None else list(self.dead_band)}


def segment_points(motion: Motion, phase: np.ndarray | None, o: Options) -> Int64[np.ndarray, " K"]:
    """Change points of M3."""
    parts = [motion] if o.arms == "joint" else split_arms(motion)
    found = [
        segment(
            part,
            penalty=o.penalty,
            n_change_points=o.n_change_points,
            free=() if o.n_change_points is not None else stroke_starts(part, o.stroke or 0.0),
            alpha=o.alpha,
            beta=o.beta,
            extra_weight=o.extra_weight,
            rest=o.rest,
            smooth=o.smooth or 1,
            min_size=o.min_size or MIN_SIZE,
            max_segment=o.max_segment,
            jump=o.jump,
            dead_band=o.dead_band,
            reduction=o.reduction,
        )
        for part in parts
    ]
    return found[0] if len(found) == 1 else _apart(np.unique(np.concatenate(found)), o.min_size or MIN_SIZE)


def split_arms(motion: Motion) -> list[Motion]:
    """One recording per arm; extra columns stay with the first."""

    def parts(value: np.ndarray | None) -> list[Any]:
        if value is None:
            return [None] * motion.arms
        return [np.ascontiguousarray(part) for part in np.split(value, motion.arms, axis=1)]

    arms = enumerate(zip(parts(motion.position), parts(motion.quaternion), parts(motion.gripper)))
    return [
        Motion(*own, None if arm else motion.extra, f"{motion.where}, arm {arm}", motion.joints) for arm, own in arms
    ]


def column_points(motion: Motion, phase: np.ndarray | None, o: Options) -> Int64[np.ndarray, " K"]:
    """Change points where a labelled column (a human's or an expert's phases) changes its value."""
    if phase is None:
        raise EpisodeError(f"{motion.where}: method 'column' needs the phase of every step, and there is none")
    if np.shape(phase) != (len(motion),):
        raise EpisodeError(f"{motion.where}: phase has shape {np.shape(phase)} for {len(motion)} steps")
    return label_changes(phase)


def hdbscan_points(motion: Motion, phase: np.ndarray | None, o: Options) -> Int64[np.ndarray, " K"]:
    """Change points where the cluster changes, clusters of step directions found by HDBSCAN (paper's ablation).

    Time is not a feature, as in the ablation; steps that HDBSCAN calls noise keep the previous cluster, and those
    before the first cluster count as a cluster of their own.
    """
    directions = _directions(motion, o)
    if len(directions) < 2 * o.cluster_size or np.ptp(directions, axis=0).max() == 0:
        return np.zeros(0, np.int64)
    from sklearn.cluster import HDBSCAN

    labels = HDBSCAN(min_cluster_size=o.cluster_size, copy=True).fit_predict(directions)
    for i in np.flatnonzero(labels < 0):
        labels[i] = labels[i - 1] if i else labels[i]
    return _apart(label_changes(labels), o.min_size or MIN_SIZE)


def cotpc_points(motion: Motion, phase: np.ndarray | None, o: Options) -> Int64[np.ndarray, " K"]:
    """Key states as in CoTPC: where the cosine between the motion before and after a step is a low local minimum."""
    directions = _directions(motion, o)
    n = len(directions)
    sums = np.concatenate([np.zeros((1, directions.shape[1])), np.cumsum(directions, axis=0)])
    steps = np.arange(1, n)
    before = sums[steps] - sums[np.maximum(steps - o.window, 0)]
    after = sums[np.minimum(steps + o.window, n)] - sums[steps]
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = np.where(lengths > 0, (before * after).sum(axis=1) / np.where(lengths > 0, lengths, 1), 1.0)
    found: list[int] = []
    for step in steps[np.argsort(cosine, kind="stable")]:
        if cosine[step - 1] >= o.threshold:
            break
        if all(abs(step - other) > o.window for other in found):
            found.append(int(step))
    return np.array(sorted(found), np.int64)


def _directions(motion: Motion, o: Options) -> np.ndarray:
    window = o.smooth or 1
    steps = unit_steps(smooth_motion(motion, window), as_dead_band(o.dead_band, motion, window))
    return np.concatenate([steps.vectors, np.sqrt(o.alpha) * steps.rotation, steps.sign], axis=1)


def _apart(points: np.ndarray, least: int) -> np.ndarray:
    kept: list[int] = []
    for point in points:
        if not kept or point - kept[-1] >= least:
            kept.append(int(point))
    return np.array(kept, np.int64)


# Change points of one recording, and probabilities made of them, but for the LSTM, which `annotate` fits.
POINTS: dict[str, Callable[[Motion, np.ndarray | None, Options], np.ndarray]] = {
    "segment": segment_points,
    "hdbscan": hdbscan_points,
    "cotpc": cotpc_points,
    "column": column_points,
}
RHO: dict[str, Callable[[np.ndarray, int, Options], np.ndarray]] = {
    "hard": lambda points, length, o: change_targets(points, length),
    "gaussian": lambda points, length, o: soft_targets(points, length, o.sigma),
    "fixed": lambda points, length, o: np.full(length, o.value, np.float32),
}

METHODS: dict[str, tuple[str, str | None]] = {
    "lstm": ("segment", "lstm"),
    "fixed": ("segment", "fixed"),
    "change_points": ("segment", "hard"),
    "gaussian": ("segment", "gaussian"),
    "hdbscan": ("hdbscan", None),
    "cotpc": ("cotpc", None),
    "column": ("column", None),
}
"""Method: where its change points come from, how ρ is made of them (None: as option `rho` says)."""


MOTION = ("smooth", "dead_band", "alpha")
SEARCH = ("penalty", "n_change_points", "min_size", "scale", "max_segment", "jump")
USED = {
    "segment": (*MOTION, *SEARCH, "beta", "extra_weight", "rest", "reduction", "stroke", "arms"),
    "hdbscan": (*MOTION, "min_size", "cluster_size"),
    "cotpc": (*MOTION, "window", "threshold"),
    "gaussian": ("sigma",),
    "fixed": ("value",),
}
"""Name in `POINTS` or `RHO`: the options that it looks at; none where it is missing."""


def method_parts(method: str, options: Options) -> tuple[str, str]:
    """The names in `POINTS` and `RHO` that make up a method. Raises ConfigError: unknown method."""
    points, rho = METHODS[choose(method, tuple(METHODS), "method")]
    return points, rho or options.rho


def resolved(options: Options, motions: Sequence[Motion]) -> Options:
    """The options with what follows the data set (smooth, dead_band, stroke, scale, penalty, min_size) for None."""
    stroke = default_stroke(motions) if options.stroke is None else options.stroke
    options = dataclasses.replace(options, stroke=stroke)
    phase = _pilot_phase(_with_noise(options, motions), [motion for motion in motions if len(motion)])
    scale = time_scale(phase) if options.scale is None else options.scale
    options = _with_noise(options, motions, scale)
    penalty = options.penalty
    if penalty is None and options.n_change_points is None:
        penalty = default_penalty(motions, scale)
    least = options.min_size
    if least is None:
        least = max(min(default_min_size(motions, scale), int(phase / 2)), SHORTEST_SEGMENT)
    return dataclasses.replace(options, penalty=penalty, min_size=least, scale=scale)


def _with_noise(options: Options, motions: Sequence[Motion], scale: int = 1) -> Options:
    """smooth and dead_band by the noise of every `scale`-th sample: a fast log may hold interpolated noise."""
    sparse = [motion.at(np.arange(0, len(motion), scale)) for motion in motions]
    window = smooth = default_window(sparse)
    if window > 1:
        smooth = window * scale // 2 * 2 + 1
    band = default_dead_band(sparse, smooth=window).over(scale)
    if options.smooth is not None:
        smooth, band = options.smooth, default_dead_band(motions, smooth=options.smooth)
    return dataclasses.replace(options, smooth=smooth, dead_band=options.dead_band or band)


def _pilot_phase(options: Options, motions: Sequence[Motion]) -> float:
    """Samples of the median phase, by rules in which every number follows the recordings' length, so that the same
    motion at another rate has the same phases."""
    some = [motions[round(i)] for i in np.linspace(0, len(motions) - 1, min(len(motions), PILOTS))]
    samples = median_length(some)
    pilot = dataclasses.replace(
        options,
        penalty=samples / SAMPLES_PER_UNIT * price_factor(some),
        n_change_points=None,
        min_size=max(int(samples // SAMPLES_PER_PILOT_SEGMENT), SHORTEST_SEGMENT),
        max_segment=None,
        jump=1,
    )
    return phase_length(map(len, some), [segment_points(motion, None, pilot) for motion in some])
