"""Figures that say at a glance whether labels are sane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gap_vla.phases.targets import distance_to_change

PROFILE = 10
"""ρ is reported by distance from the nearest change point up to this many steps."""


def label_report(rho: Sequence[np.ndarray], change_points: Sequence[np.ndarray]) -> dict[str, Any]:
    """JSON-able summary of the labels of a data set.

    Returns:
        episodes, steps, change_points (all), change_points_per_episode, change_rate (per step), rho_mean,
        rho_by_distance (mean ρ at 0 … 10 steps from the nearest change point, the first step not counted as one;
        None where no step is that far from one).
    """
    lengths = [len(r) for r in rho]
    steps, points = sum(lengths), sum(map(len, change_points))
    everything = np.concatenate([np.zeros(0, np.float32), *rho])
    distances = np.concatenate([np.zeros(0), *(_distance(p, n) for p, n in zip(change_points, lengths))])
    profile = [everything[distances == d] for d in range(PROFILE + 1)]
    return {
        "episodes": len(lengths),
        "steps": steps,
        "change_points": points,
        "change_points_per_episode": points / max(len(lengths), 1),
        "change_rate": points / max(steps, 1),
        "rho_mean": float(everything.mean(dtype=np.float64)) if steps else None,
        "rho_by_distance": [float(r.mean(dtype=np.float64)) if len(r) else None for r in profile],
    }


def _distance(points: np.ndarray, length: int) -> np.ndarray:
    if len(points) == 0:
        return np.full(length, np.inf)
    distance = distance_to_change(points, length)
    head = np.arange(min(int(points[0]), length))
    distance[head] = points[0] - head
    return distance
