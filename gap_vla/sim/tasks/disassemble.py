"""Disassemble: pull a wrench off the peg on which its ring hangs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, OPEN, Goal, Phase, Style
from gap_vla.sim.metaworld_world import MetaWorldWorld


class Disassemble(MetaWorldWorld):
    """Meta-World's disassemble-v3: success when the wrench is 15 cm above where it started."""

    library_name = "disassemble-v3"
    object_bodies = ("RoundNut", "asmbly_peg", "peg")
    views: ClassVar[dict[str, View]] = {
        **MetaWorldWorld.views,
        "near": View((0.661, 1.327, 0.713), (0.082, 0.636, 0.083), 19.5),
    }
    stretch = (1.5, 1.3, 1.0, 1.0, 1.0, 1.0)

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        aside = np.array([*style.sideways, 0.0])

        def wrench(up: float) -> np.ndarray:
            return self.site("RoundNut-8") + np.array([-0.02, 0.0, up])

        def upwards() -> list[Goal]:
            return [Goal(self.hand()[0] + np.array([0.0, 0.0, 0.1]), None, CLOSE)]

        return [
            Phase("reach", lambda: [Goal(wrench(0.11) + aside, None, OPEN)], tolerance=0.025, gain=1.0),
            Phase("descend", lambda: [Goal(wrench(0.01), None, OPEN)], tolerance=0.025, gain=1.0),
            # pulling before the fingers are shut lets the wrench slip
            Phase("grasp", lambda: [Goal(wrench(0.01), None, CLOSE)], hold=12, tolerance=9.0),
            Phase("extract", upwards, hold=1000, limit=1000, gain=1.0),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        wrench = {"ring": self.site("RoundNut"), "handle": self.site("RoundNut-8")}
        return {**super().landmarks(), **wrench, "peg": self.data.body("peg").xpos + np.array([0.0, 0.0, 0.05])}
