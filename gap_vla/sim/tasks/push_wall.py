"""Push-wall: push a puck around the end of a wall to a goal behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, OPEN, Goal, Phase, Style
from gap_vla.sim.metaworld_world import MetaWorldWorld

BEFORE_WALL_Y, BEHIND_WALL_Y, BESIDE_WALL_X = 0.665, 0.815, -0.10
"""Lines (m) along which the puck goes round the wall, which stands at y = 0.75 from x = -0.02 to 0.22."""


class PushWall(MetaWorldWorld):
    """Meta-World's push-wall-v3: success when the puck is within 7 cm of the goal."""

    library_name = "push-wall-v3"
    object_bodies = ("obj",)
    views: ClassVar[dict[str, View]] = {
        **MetaWorldWorld.views,
        "near": View((-0.754, 1.183, 0.79), (-0.024, 0.762, 0.082), 16.2),
    }
    stretch = (1.5, 1.3, 1.0, 1.5, 1.3, 1.0)

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        aside = np.array([*style.sideways, 0.0])
        beside = BESIDE_WALL_X - abs(style.sideways[0])

        def puck(up: float) -> np.ndarray:
            return self.data.body("obj").xpos + np.array([-0.005, 0.0, up])

        def along(x: float | None, y: float | None) -> list[Goal]:
            """Hand position that brings the puck to x or y (m), on the table; the other coordinate stays."""
            now = self.data.body("obj").xpos
            wanted = np.array([now[0] if x is None else x, now[1] if y is None else y, 0.015])
            here = self.hand()[0]
            return [Goal(np.array([*(here + wanted - now)[:2], 0.05]), None, CLOSE)]

        return [
            Phase("reach", lambda: [Goal(puck(0.12 + style.hover) + aside, None, OPEN)], tolerance=0.025, gain=1.0),
            Phase("descend", lambda: [Goal(puck(0.03), None, OPEN)], tolerance=0.02, gain=1.0),
            Phase("grasp", lambda: [Goal(puck(0.03), None, CLOSE)], hold=8, tolerance=9.0),
            Phase("push", lambda: along(None, BEFORE_WALL_Y), tolerance=0.02, gain=1.5),
            Phase("sidestep", lambda: along(beside, None), tolerance=0.02, gain=1.5),
            Phase("pass_wall", lambda: along(None, BEHIND_WALL_Y), tolerance=0.02, gain=1.5),
            Phase("finish", lambda: along(self.goal[0], self.goal[1]), hold=1000, limit=1000, gain=1.5),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        wall = {"wall_end": np.array([-0.02, 0.75, 0.12])}
        return {**super().landmarks(), "puck": self.data.body("obj").xpos.copy(), "goal": self.goal, **wall}
