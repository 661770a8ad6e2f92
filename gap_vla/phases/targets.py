"""What a transition is: the targets of M4 around change points, the weights of M5, and the meaning of ρ."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from gap_vla.core.errors import EpisodeError

TRANSITION = 0.5
"""A step of larger ρ belongs to a motion transition."""


def is_transition(rho: Any) -> Any:
    """ρ > 0.5, bool[…]: the steps of a motion transition. `rho`: float[…], an array of numpy, JAX or torch.

    >>> is_transition(np.array([0.2, 0.5, 0.7]))
    array([False, False,  True])
    """
    return rho > TRANSITION


def change_targets(change_points: Int64[np.ndarray, " K"], length: int, *, scale: int = 1) -> Float[np.ndarray, " T"]:
    """M4: c_t = 1 at the change points and at the first step, else 0.

    Args:
        scale: of those who see every `scale`-th step; for them c_t is 1 at the nearest to a change point.
    """
    return (2 * distance_to_change(change_points, length) < scale).astype(np.float32)


def distance_to(points: Int64[np.ndarray, " K"], length: int, *, one_sided: bool = False) -> Float[np.ndarray, " T"]:
    """Steps from each step to the nearest of some points (ascending); infinite without any.

    Args:
        one_sided: only points at or before the step.
    """
    steps = np.arange(length)
    ends = np.concatenate([[-np.inf], points, [np.inf]])
    behind = steps - ends[np.searchsorted(ends, steps, side="right") - 1]
    ahead = ends[np.searchsorted(ends, steps)] - steps
    return (behind if one_sided else np.minimum(behind, ahead)).astype(np.float32)


def distance_to_change(
    change_points: Int64[np.ndarray, " K"], length: int, *, one_sided: bool = False
) -> Float[np.ndarray, " T"]:
    """Steps from each step to the nearest change point or to the first step, which M4 counts as one.

    Args:
        one_sided: only change points at or before the step (the release, for MimicGen).
    """
    points = np.concatenate([[0] * (length > 0), change_points]).astype(int)
    return distance_to(points, length, one_sided=one_sided)


def soft_targets(
    change_points: Int64[np.ndarray, " K"], length: int, spread: float | int, *, one_sided: bool = False
) -> Float[np.ndarray, " T"]:
    """M4 softened: y_t = exp(-d_t² / 2 spread²), d_t as in `distance_to_change`.

    Args:
        spread: steps, above 0; ρ is above one half within 1.18 · spread steps of a change point.

    >>> soft_targets(np.array([4]), 6, 1.0).round(2)
    array([1.  , 0.61, 0.14, 0.61, 1.  , 0.61], dtype=float32)
    """
    distance = distance_to_change(change_points, length, one_sided=one_sided)
    return np.exp(-0.5 * (distance / spread) ** 2).astype(np.float32)


def step_weights(
    change_points: Int64[np.ndarray, " K"],
    length: int,
    *,
    k: float | int,
    most: float | int = np.inf,
    one_sided: bool = False,
    scale: int = 1,
) -> Float[np.ndarray, " T"]:
    """M5: 1 at the positives of M4; a negative at distance d from the nearest one counts min(k d², most).

    Args:
        scale: d counts so many steps as one; see `change_targets`.

    >>> step_weights(np.array([4]), 6, k=0.1).round(1)
    array([1. , 0.1, 0.4, 0.1, 1. , 0.1], dtype=float32)
    """
    distance = distance_to_change(change_points, length, one_sided=one_sided)
    positive = change_targets(change_points, length, scale=scale) > 0
    return np.where(positive, 1, np.minimum(k * distance**2, most)).astype(np.float32)


def label_changes(labels: np.ndarray) -> Int64[np.ndarray, " K"]:
    """Switches of a labelled column, such as an expert's phases: the steps at which its value is a new one.

    >>> label_changes(np.array(["reach", "reach", "lift"]))
    array([2])

    Raises EpisodeError: more than one label a step, or NaN, which would be another one at each step.
    """
    labels = np.asarray(labels)
    if labels.size != len(labels) or (labels != labels).any():
        raise EpisodeError(f"labels are {labels.dtype}{[*labels.shape]}; give one a step, and none NaN")
    labels = labels.reshape(-1)
    return (np.flatnonzero(labels[1:] != labels[:-1]) + 1).astype(np.int64)


def near_boundaries(points: Int64[np.ndarray, " K"], length: int, tolerance: int) -> Bool[np.ndarray, " T"]:
    """Steps at most `tolerance` steps from a boundary. The first step of a recording, a target in M4, is no boundary.

    >>> near_boundaries(np.array([2]), 5, 1)
    array([False,  True,  True,  True, False])
    """
    return distance_to(points, length) <= tolerance
