"""Every way to find change points that is compared: ours, ruptures with its stock costs, heuristics, clusters.

A finder takes recordings of one task and returns change points for each; its one free parameter is tuned on training
recordings of the same task, ours is also run with its defaults.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ruptures

from experiments.phase_benchmark.tuning import Further, cosine, ratio, whole
from gap_vla.phases.methods import Options, cotpc_points, hdbscan_points, resolved, segment_points
from gap_vla.phases.motion import Motion, steps_of

Points = list[np.ndarray]
DOUBLED = ratio(2.0)


@dataclasses.dataclass(frozen=True)
class Finder:
    """One way to find change points.

    Attributes:
        find: from recordings and the parameter.
        grid: the parameter's values from which choosing starts; one: nothing is tuned.
        further, refine: how the grid goes on, see `tuning.tune`.
    """

    find: Callable[[Sequence[Motion], float], Points]
    grid: tuple[float, ...]
    further: Further = DOUBLED
    refine: bool = True


def ours(motions: Sequence[Motion], penalty: float, **options: Any) -> Points:
    """M3 with smoothing and dead-bands that follow the data; penalty 0 means the default rule."""
    settings = resolved(Options(penalty=penalty or None, **options), motions)
    return [segment_points(motion, None, settings) for motion in motions]


def step_signal(motion: Motion) -> np.ndarray:
    """What ruptures' stock costs see: every sample's step in position, rotation and fingers, unit variance each.

    The direction of motion is piecewise constant in these columns, which is the best case for these costs.
    """
    steps = steps_of(motion)
    blocks = [
        part.reshape(len(part), -1) for part in (steps.position, steps.rotation, steps.gripper) if part is not None
    ]
    signal = np.concatenate([block / max(float(block.std()), 1e-9) for block in blocks], axis=1)
    return np.concatenate([signal, signal[-1:]])


_fitted: dict[tuple[int, str, str], tuple[Motion, Any]] = {}
"""Searches of the recordings that were asked about last: tuning asks again and again."""


def with_ruptures(search: str, model: str) -> Callable[[Sequence[Motion], float], Points]:
    """A ruptures search with one of its own costs; the cost of a segment is computed once."""
    arguments = {"min_size": 8 if model == "ar" else 3, "jump": 1} | ({"width": 12} if search == "Window" else {})

    def fitted(motion: Motion) -> Any:
        signal, options = step_signal(motion), None
        if model == "ar":  # an autoregression of one channel
            signal, options = np.linalg.norm(signal, axis=1), {"order": 2}
        found = getattr(ruptures, search)(model=model, params=options, **arguments)
        found.cost.error = functools.cache(found.cost.error)
        return found.fit(signal)

    def find(motions: Sequence[Motion], penalty: float) -> Points:
        keys = [(id(motion), search, model) for motion in motions]
        if not {*keys} <= _fitted.keys():
            _fitted.clear()
            _fitted.update({key: (motion, fitted(motion)) for key, motion in zip(keys, motions)})
        return [np.array(_fitted[key][1].predict(pen=penalty)[:-1], np.int64) for key in keys]

    return find


def slow_moments(motions: Sequence[Motion], share: float) -> Points:
    """Local minima of the speed below a share of the fast speed: the usual heuristic."""
    found = []
    for motion in motions:
        speed = np.linalg.norm(steps_of(motion).position, axis=2).sum(axis=1)
        slow = speed < share * np.quantile(speed, 0.95)
        runs = np.flatnonzero(np.diff(np.concatenate([[0], slow.astype(int), [0]])))
        points = [a + int(np.argmin(speed[a:b])) for a, b in zip(runs[::2], runs[1::2])]
        found.append(np.array([p for p in points if 2 < p < len(motion) - 2], np.int64))
    return found


def uniform(motions: Sequence[Motion], number: float) -> Points:
    """A number of change points, evenly spaced."""
    return [np.linspace(0, len(m), int(number) + 2)[1:-1].round().astype(np.int64) for m in motions]


def clusters(motions: Sequence[Motion], size: float) -> Points:
    """HDBSCAN over step directions."""
    settings = resolved(Options(cluster_size=int(size)), motions)
    return [hdbscan_points(motion, None, settings) for motion in motions]


def key_states(motions: Sequence[Motion], threshold: float) -> Points:
    """CoTPC's cosine key states."""
    settings = resolved(Options(threshold=threshold), motions)
    return [cotpc_points(motion, None, settings) for motion in motions]


STOCK_COSTS: dict[str, tuple[float, ...]] = {
    "l2": (4.0, 8.0, 16.0, 32.0, 64.0),
    "rbf": (1.0, 2.0, 4.0, 8.0),
    "normal": (60.0, 120.0, 240.0, 480.0, 960.0),
    "ar": (0.1, 0.3, 1.0, 3.0),
}
"""Costs of ruptures and the penalties from which their choice starts."""

FINDERS: dict[str, Finder] = {
    "ours, defaults": Finder(ours, (0.0,)),
    "ours, penalty tuned": Finder(ours, (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)),
    "paper's M2 (no rest, no strokes), defaults": Finder(lambda m, p: ours(m, p, rest=0.0, stroke=0.0), (0.0,)),
    "release's mean reduction, tuned": Finder(
        lambda m, p: ours(m, p, rest=0.0, stroke=0.0, reduction="mean"), (0.01, 0.03, 0.1, 0.2, 0.3)
    ),
    **{
        f"ruptures {search} {model}": Finder(with_ruptures(search, model), grid)
        for model, grid in STOCK_COSTS.items()
        for search in ("Pelt", "BottomUp", "Window")
    },
    "speed threshold": Finder(slow_moments, (0.1, 0.2, 0.3, 0.45, 0.6, 0.75), ratio(1.25)),
    "CoTPC key states": Finder(key_states, (0.0, 0.3, 0.5, 0.7, 0.85, 0.95), cosine, refine=False),
    "HDBSCAN": Finder(clusters, (4.0, 6.0, 8.0, 12.0), whole(2, lambda size: size // 3), refine=False),
    "uniform": Finder(uniform, tuple(float(k) for k in range(1, 17)), whole(1, lambda number: 1), refine=False),
}
