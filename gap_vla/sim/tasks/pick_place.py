"""Pick-place: bring a puck to a goal in the air."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, OPEN, Goal, Phase, Style
from gap_vla.sim.metaworld_world import MetaWorldWorld


class PickPlace(MetaWorldWorld):
    """Meta-World's pick-place-v3: success when the puck is within 7 cm of the goal."""

    library_name = "pick-place-v3"
    object_bodies = ("obj",)
    views: ClassVar[dict[str, View]] = {
        **MetaWorldWorld.views,
        "near": View((0.561, 1.445, 0.783), (-0.018, 0.754, 0.152), 18.6),
    }
    stretch = (1.5, 1.5, 1.0, 1.5, 1.5, 1.2)

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        aside = np.array([*style.sideways, 0.0])

        def puck(up: float) -> np.ndarray:
            return self.data.body("obj").xpos + np.array([-0.005, 0.0, up])

        return [
            Phase("reach", lambda: [Goal(puck(0.10 + style.hover) + aside, None, OPEN)], tolerance=0.025, gain=1.0),
            Phase("descend", lambda: [Goal(puck(0.03), None, OPEN)], tolerance=0.02, gain=1.0),
            Phase("grasp", lambda: [Goal(puck(0.03), None, CLOSE)], hold=10, tolerance=9.0),
            Phase(
                "transport",
                lambda: [Goal(self.hand()[0] + self.goal - self.data.body("obj").xpos, None, CLOSE)],
                hold=1000,
                limit=1000,
                gain=1.0,
            ),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        return {**super().landmarks(), "puck": self.data.body("obj").xpos.copy(), "goal": self.goal}
