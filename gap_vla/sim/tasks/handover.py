"""Handover: one arm picks up a bar and presents it, the other takes it over and carries it off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, LAST, ONTO, OPEN, WAITING, Phase, Style
from gap_vla.sim.robosuite_world import DOWN, TABLE_Z, RobosuiteWorld, about_z, nearest_angle, yaw_of
from gap_vla.sim.variants import draw_ranges
from gap_vla.sim.world import Goal

HALF_LENGTH, HALF_WIDTH = 0.11, 0.012
"""Of the bar (m); it lies along y."""
MEETING_POINT = np.array([0.0, 0.0, TABLE_Z + 0.20])
GOAL_POINT = np.array([0.0, 0.22, TABLE_Z + 0.20])
GRIP = 0.06
"""Distance (m) from the bar's middle at which each arm takes it."""
_RANGES = {
    "x": ((-0.08, 0.08), (-0.14, 0.14)),
    "y": ((-0.20, -0.12), (-0.26, -0.06)),
    "yaw": ((-0.3, 0.3), (-0.7, 0.7)),
}
"""Bar position (m) and yaw (rad; 0: along y): the default ranges, and the wide ones."""
_GIVER, _TAKER = about_z(np.pi) @ DOWN, DOWN.copy()
"""The arms' own neutral hands: both with fingers opening along x, across the bar."""


class Handover(RobosuiteWorld):
    """Two arms face each other; success when only the second holds the bar, raised and on its own side."""

    near = View((1.109, -0.02, 1.46), (0.021, -0.02, 0.953), 34.0)
    bases = ((np.pi / 2, (0.0, -0.05, 0.0)), (-np.pi / 2, (0.0, 0.05, 0.0)))
    object_bodies = ("bar",)
    coarse: ClassVar[dict[str, tuple[float, int]]] = {  # two arms, seen from further away
        **RobosuiteWorld.coarse,
        "link6": (0.05, 300),
        "link7": (0.05, 75),
        "right_gripper": (0.12, 150),
    }

    def bodies(self) -> str:
        width = HALF_WIDTH * self.variant.size
        halves = "".join(
            f'<geom name="{name}" type="box" pos="0 {side * HALF_LENGTH / 2} 0" '
            f'size="{width} {HALF_LENGTH / 2} {width}" rgba="{color} 1" density="250"/>'
            for name, side, color in (("bar_red", -1, "0.85 0.15 0.10"), ("bar_blue", 1, "0.10 0.30 0.85"))
        )
        return f'<body name="bar" pos="0 -0.15 0.82"><freejoint name="bar_free"/>{halves}</body>'

    def place(self, rng: np.random.Generator) -> None:
        start = draw_ranges(rng, _RANGES, self.variant.positions)
        height = TABLE_Z + HALF_WIDTH * self.variant.size + 0.0005
        self.put_free("bar_free", (start["x"], start["y"], height), start["yaw"])

    def succeeded(self) -> bool:
        bar = self.body_pose("bar")[0]
        raised = bar[2] > TABLE_Z + 0.10 and bar[1] > 0.12
        return bool(raised and self.holds(["bar_red", "bar_blue"], 1) and not self.holds(["bar_red", "bar_blue"], 0))

    def landmarks(self) -> dict[str, np.ndarray]:
        bar, rotation = self.body_pose("bar")
        half = rotation @ np.array([0.0, HALF_LENGTH, 0.0])
        return {**super().landmarks(), "red_end": bar - half, "blue_end": bar + half}

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        yaw = nearest_angle(yaw_of(self.body_pose("bar")[1]), 0.0, np.pi)
        pick = about_z(np.pi + yaw) @ DOWN
        home = self.hand(0)[0], self.hand(1)[0]
        aside = np.array([*style.sideways, 0.0])
        resting = Goal(home[1], _TAKER, OPEN)
        waiting = Goal(MEETING_POINT + np.array([0.0, 0.16, 0.10 + style.hover]), _TAKER, OPEN)

        def on_bar(side: float, up: float = 0.0) -> np.ndarray:
            bar, rotation = self.body_pose("bar")
            return bar + rotation @ np.array([0.0, side * GRIP, 0.0]) + np.array([0.0, 0.0, up])

        def levelled() -> Goal:
            """Pose of the giver that holds the bar level at the meeting point; closed loop on the bar."""
            (position, rotation), (bar, turned) = self.hand(0), self.body_pose("bar")
            return Goal(MEETING_POINT + turned.T @ (position - bar), turned.T @ rotation, CLOSE)

        def here(arm: int, gripper: float, move: Sequence[float] = (0.0, 0.0, 0.0)) -> Goal:
            position, rotation = self.hand(arm)
            return Goal(position + np.array(move), rotation, gripper)

        def held() -> Goal:
            return Goal(self.hand(1)[0], _TAKER, CLOSE)

        presented = Goal(MEETING_POINT + np.array([0.0, -GRIP, 0.0]), _GIVER, CLOSE)
        careful: dict[str, Any] = dict(gain=1.2, precise=True)

        def carried() -> list[Goal]:
            offset = self.hand(1)[0] - self.body_pose("bar")[0]
            return [Goal(home[0], _GIVER, OPEN), Goal(GOAL_POINT + offset, _TAKER, CLOSE)]

        return [
            Phase(
                "reach",
                lambda: [Goal(on_bar(-1, 0.09 + style.hover) + aside, pick, OPEN), resting],
                tolerance=0.02,
                gain=2.0,
            ),
            Phase("descend", lambda: [Goal(on_bar(-1), pick, OPEN), resting], **ONTO),
            Phase("grasp", lambda: [Goal(self.hand(0)[0], pick, CLOSE), resting], hold=9, **WAITING),
            Phase(
                "lift",
                lambda: [Goal(np.array([*self.hand(0)[0][:2], MEETING_POINT[2]]), pick, CLOSE), waiting],
                tolerance=0.04,
                once=True,
            ),
            Phase(
                "present",
                lambda: [presented, waiting],
                tolerance=0.015,
                turn_tolerance=0.08,
                stay=2,
                gain=1.5,
                arms=(0, 1),
            ),
            Phase(
                "reach_taker",
                lambda: [levelled(), Goal(on_bar(1, 0.06), _TAKER, OPEN)],
                tolerance=0.010,
                turn_tolerance=0.06,
                stay=2,
                arms=(0, 1),
                **careful,
            ),
            Phase(
                "descend_taker",
                lambda: [levelled(), Goal(on_bar(1), _TAKER, OPEN)],
                tolerance=0.005,
                turn_tolerance=0.06,
                stay=2,
                arms=(1,),
                **careful,
            ),
            Phase("grasp_taker", lambda: [here(0, CLOSE), held()], hold=10, **WAITING),
            Phase("release_giver", lambda: [here(0, OPEN), held()], hold=7, **WAITING),
            Phase("retreat_giver", lambda: [here(0, OPEN, (0.0, 0.0, 0.12)), held()], tolerance=0.04, once=True),
            Phase("carry", carried, once=True, **LAST),
        ]
