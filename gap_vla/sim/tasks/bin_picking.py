"""Bin-picking: move a cube from one bin into the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, OPEN, Goal, Phase, Style
from gap_vla.sim.metaworld_world import MetaWorldWorld

REACHABLE = 0.034
"""How far from the bin's middle line the open hand fits between its walls (m); closing it drags the cube along."""
SHIFTS = {"default": (0.0, 0.0), "wide": (0.0, 0.05), "disjoint": (0.03, 0.06)}
"""Least and largest shift (m, along x and along y) of both bins: the library's cube already uses its whole bin."""


class BinPicking(MetaWorldWorld):
    """Meta-World's bin-picking-v3: success when the cube is within 5 cm of the other bin's centre."""

    library_name = "bin-picking-v3"
    object_bodies = ("obj", "objA", "binA", "binB")
    views: ClassVar[dict[str, View]] = {
        **MetaWorldWorld.views,
        "near": View((0.501, 1.293, 0.845), (0.001, 0.697, 0.067), 19.5),
    }

    def _move_fixtures(self) -> None:
        least, most = SHIFTS[self.variant.positions]
        self._shift = self._rng.uniform(least, most, 2) * self._rng.choice([-1, 1], 2)
        for name in ("binA", "binB", "bin_goal"):
            self.model.body_pos[self.model.body(name).id, :2] += self._shift

    def _draw_layout(self) -> np.ndarray:
        space = self.env._random_reset_space
        layout = self._rng.uniform(space.low, space.high)
        layout[:2] += self._shift
        return layout

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        aside = np.array([style.sideways[0], 0.0, 0.0])
        middle = self.data.body("binA").xpos[1]

        def cube(up: float) -> np.ndarray:
            x, y, z = self.data.body("obj").xpos
            return np.array([x, np.clip(y, middle - REACHABLE, middle + REACHABLE), z + up])

        def lifted() -> list[Goal]:
            here = self.hand()[0]
            return [Goal(np.array([here[0], here[1], 0.19 + style.hover]), None, CLOSE)]

        def over_bin(height: float) -> list[Goal]:
            offset = self.data.body("bin_goal").xpos - self.data.body("obj").xpos
            here = self.hand()[0]
            return [Goal(np.array([here[0] + offset[0], here[1] + offset[1], height]), None, CLOSE)]

        return [
            Phase("reach", lambda: [Goal(cube(0.15 + style.hover) + aside, None, OPEN)], tolerance=0.03, gain=1.0),
            Phase("descend", lambda: [Goal(cube(0.03), None, OPEN)], tolerance=0.012, gain=1.5, limit=60),
            Phase("grasp", lambda: [Goal(cube(0.03), None, CLOSE)], hold=14, tolerance=9.0),
            Phase("lift", lifted, tolerance=0.03, gain=1.0, once=True),
            Phase("transport", lambda: over_bin(0.19 + style.hover), tolerance=0.025, gain=1.0),
            Phase("lower", lambda: over_bin(0.04), hold=1000, limit=1000, gain=1.0),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        left, right = (self.data.body(name).xpos for name in ("binA", "binB"))
        ends = {"left_end": left - np.array([0.09, 0.0, 0.0]), "right_end": right + np.array([0.09, 0.0, 0.0])}
        return {**super().landmarks(), "cube": self.data.body("obj").xpos.copy(), **ends}
