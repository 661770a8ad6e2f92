"""Named variations of a task: the default, and the out-of-distribution ones, each with its own seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the scene of an episode differs from the one that the demonstrations show.

    Attributes:
        name: short name (`"positions_wide"`).
        first_seed: where this variant's own list of seeds begins.
        positions: where objects start. `wide`: ranges stretched about their centre; `disjoint`: drawn from the wide
            ranges, but never from the default ones.
        distractors: number of extra objects that lie around (seen, not touched: they have no contacts).
        table, light, color: whether the table's texture, the lights, the objects' colours are redrawn per episode.
        camera: whether the primary camera is moved and turned per episode.
        size: factor on the size of the manipulated object.
    """

    name: str
    first_seed: int
    positions: Literal["default", "wide", "disjoint"] = "default"
    distractors: int = 0
    table: bool = False
    light: bool = False
    camera: bool = False
    color: bool = False
    size: float = 1.0

    def seeds(self, n: int) -> range:
        """The variant's first `n` evaluation seeds, at most 100,000: no two variants share one."""
        return range(self.first_seed, self.first_seed + n)

    @property
    def only_looks(self) -> bool:
        """Whether nothing but pictures differs from the default: nothing touches the distractors."""
        return self.name != "default" and (self.positions, self.size) == ("default", 1.0)

    def require_view(self, view: str) -> None:
        """Raises ConfigError for a camera of the simulator's model, if it would have to be moved."""
        if self.camera and view != "near":
            raise ConfigError(f"variant {self.name} moves the task's own view, not {view!r}; take the view near")


_VARIANTS = (
    Variant("default", 100_000),
    Variant("positions_wide", 200_000, positions="wide"),
    Variant("positions_disjoint", 300_000, positions="disjoint"),
    Variant("distractors", 400_000, distractors=3),
    Variant("table_texture", 500_000, table=True),
    Variant("light", 600_000, light=True),
    Variant("camera_shift", 700_000, camera=True),
    Variant("object_color", 800_000, color=True),
    Variant("object_size", 900_000, size=1.15),
)
_BY_NAME = {variant.name: variant for variant in _VARIANTS}

VARIANT_NAMES: tuple[str, ...] = tuple(_BY_NAME)
"""Names of all variants; every task has all of them."""


def variant_spec(name: str) -> Variant:
    """The variant of that name.

    >>> variant_spec("light").seeds(3)
    range(600000, 600003)
    """
    return _BY_NAME[choose(name, VARIANT_NAMES, "variant")]


Ranges = Mapping[str, tuple[tuple[float, float], tuple[float, float]]]
"""By name: the default (low, high), and the wide one."""


def draw_ranges(rng: np.random.Generator, ranges: Ranges, positions: str) -> dict[str, float]:
    """Draws one value per range, uniformly.

    Args:
        positions: `default`, `wide`, or `disjoint`: from the wide ranges, with at least one value outside its default
            range (of those that vary by default: a fixture that never moved is outside wherever it goes).
    """
    chosen = {name: default if positions == "default" else wide for name, (default, wide) in ranges.items()}
    while True:
        drawn = {name: float(rng.uniform(low, high)) for name, (low, high) in chosen.items()}
        outside = any(high > low and not low <= drawn[name] <= high for name, ((low, high), _) in ranges.items())
        if positions != "disjoint" or outside:
            return drawn
