"""Assembly: put the ring of a wrench over a peg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gap_vla.sim.expert import CLOSE, OPEN, Goal, Phase
from gap_vla.sim.metaworld_world import MetaWorldWorld


class Assembly(MetaWorldWorld):
    """Meta-World's assembly-v3: success when the ring's centre is within 2 cm of the peg and below its top."""

    library_name = "assembly-v3"
    object_bodies = ("RoundNut", "peg")

    def expert_phases(self, style: Any) -> Sequence[Phase]:
        def wrench(up: float) -> np.ndarray:
            return self.site("RoundNut-8") + np.array([-0.02, 0.0, up])

        over_peg = self.goal + np.array([0.12, 0.0, 0.14])  # the hand holds the wrench 12 cm beside its ring
        aside = np.array([*style.sideways, 0.0])
        carry = over_peg[2] + style.hover

        def lifted() -> list[Goal]:
            here = self.hand()[0]
            return [Goal(np.array([here[0], here[1], carry]), None, CLOSE)]

        def above_peg() -> list[Goal]:
            return [Goal(np.array([over_peg[0], over_peg[1], carry]), None, CLOSE)]

        return [
            Phase("reach", lambda: [Goal(wrench(0.10) + aside, None, OPEN)], tolerance=0.03, gain=1.0),
            Phase("descend", lambda: [Goal(wrench(0.03), None, OPEN)], tolerance=0.02, gain=1.0),
            Phase("grasp", lambda: [Goal(wrench(0.03), None, CLOSE)], hold=8, tolerance=9.0),
            Phase("lift", lifted, tolerance=0.03, gain=1.0, once=True),
            Phase("transport", above_peg, tolerance=0.02, gain=1.0),
            Phase("insert", lambda: [Goal(over_peg - [0.0, 0.0, 0.2], None, CLOSE)], hold=1000, limit=1000, gain=1.0),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        return {
            **super().landmarks(),
            "ring": self.site("RoundNut"),
            "handle": self.site("RoundNut-8"),
            "peg": self.goal,
        }
