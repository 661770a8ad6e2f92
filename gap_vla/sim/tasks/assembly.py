"""Assembly: put the ring of a wrench over a peg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, OPEN, Goal, Phase, Style
from gap_vla.sim.metaworld_world import MetaWorldWorld


class Assembly(MetaWorldWorld):
    """Meta-World's assembly-v3: success when the ring's centre is within 2 cm of the peg and below its top."""

    library_name = "assembly-v3"
    object_bodies = ("RoundNut", "asmbly_peg", "peg")
    views: ClassVar[dict[str, View]] = {
        **MetaWorldWorld.views,
        "near": View((0.62, 1.424, 0.735), (0.041, 0.734, 0.104), 19.8),
    }
    stretch = (1.0, 1.0, 1.0, 1.5, 1.5, 1.0)

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        aside = np.array([*style.sideways, 0.0])

        def wrench(up: float) -> np.ndarray:
            return self.site("RoundNut-8") + np.array([-0.02, 0.0, up])

        def lifted() -> list[Goal]:
            return [Goal(self.hand()[0] + np.array([0.0, 0.0, 0.18 + style.hover]), None, CLOSE)]

        def over_peg(up: float) -> list[Goal]:
            """Hand position that puts the ring's centre over the peg's top; closed loop on the ring."""
            return [Goal(self.hand()[0] + self.goal - self.site("RoundNut") + np.array([0.0, 0.0, up]), None, CLOSE)]

        return [
            Phase("reach", lambda: [Goal(wrench(0.10) + aside, None, OPEN)], tolerance=0.03, gain=1.0),
            Phase("descend", lambda: [Goal(wrench(0.03), None, OPEN)], tolerance=0.02, gain=1.0),
            Phase("grasp", lambda: [Goal(wrench(0.03), None, CLOSE)], hold=8, tolerance=9.0),
            Phase("lift", lifted, tolerance=0.03, gain=1.0, once=True),
            Phase("transport", lambda: over_peg(0.08 + style.hover), tolerance=0.015, gain=1.0),
            Phase("insert", lambda: over_peg(-0.10), hold=1000, limit=1000, gain=1.0),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        wrench = {"ring": self.site("RoundNut"), "handle": self.site("RoundNut-8")}
        return {**super().landmarks(), **wrench, "peg": self.goal}
