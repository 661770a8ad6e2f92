"""Drawing where things start: default ranges, wider ones, and the wider without the default."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Ranges = Mapping[str, tuple[float, float]]


def draw_ranges(rng: np.random.Generator, default: Ranges, wide: Ranges, positions: str) -> dict[str, float]:
    """Draws one value per range, uniformly.

    Args:
        default, wide: (low, high) by name; the same names in both.
        positions: `default`, `wide`, or `disjoint`: from `wide`, with at least one value outside `default`'s range
            (of those that vary by default: a fixture that never moved is outside wherever it goes).
    """
    ranges = default if positions == "default" else wide
    while True:
        drawn = {name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()}
        varying = [name for name, (low, high) in default.items() if high > low]
        outside = any(not default[name][0] <= drawn[name] <= default[name][1] for name in varying)
        if positions != "disjoint" or outside:
            return drawn
