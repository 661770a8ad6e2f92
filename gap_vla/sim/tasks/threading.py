"""Threading: put a needle through the ring of a tripod. Ranges and success condition follow MimicGen's task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, LAST, ONTO, OPEN, WAITING, Phase, Style
from gap_vla.sim.robosuite_world import DOWN, NEUTRAL_YAW, TABLE_Z, RobosuiteWorld, about_z, nearest_angle, yaw_of
from gap_vla.sim.variants import draw_ranges
from gap_vla.sim.world import Goal

RING_HEIGHT = 0.188
"""Height (m) of the ring's centre above the table."""
RING_OPENING, RING_BAR, RING_DEPTH = 0.016, 0.004, 0.005
"""Inner width, bar width and half depth (m) of the square ring."""
SHAFT = 0.06
"""Half length (m) of the needle's shaft, whose centre lies 8 cm from the handle's."""
SUCCESS_DISTANCE = 0.012
"""The needle is threaded when shaft and ring centre are this near (m): half of the shaft is through."""

_RANGES = {
    "needle_x": ((-0.20, -0.05), (-0.20, 0.05)),
    "needle_y": ((0.15, 0.25), (0.15, 0.25)),
    "needle_yaw": ((np.pi - np.pi / 6, np.pi + np.pi / 6), (np.pi - np.pi / 3, np.pi + np.pi / 3)),
    "ring_x": ((0.0, 0.0), (-0.05, 0.05)),
    "ring_y": ((-0.15, -0.15), (-0.18, -0.12)),
    "ring_yaw": ((np.pi / 2, np.pi / 2), (np.pi / 2 - 0.3, np.pi / 2 + 0.3)),
}
"""Needle position (m) and yaw of its tip; ring position (m) and yaw of its axis: default and wide ranges."""


class Threading(RobosuiteWorld):
    """A needle lies on the table; it must be picked up, turned and put through the ring."""

    near = View((0.355, -0.587, 1.319), (-0.113, 0.081, 0.939), 17.8)
    object_bodies = ("needle", "tripod")

    def bodies(self) -> str:
        wide, ring = self.variant.size, RING_OPENING
        wood = 'rgba="0.55 0.40 0.25 1"'
        orange = 'rgba="0.95 0.30 0.05 1" friction="0.3 0.005 0.0001" solref="0.01 1" solimp="0.95 0.99 0.001"'
        legs = "".join(
            f'<geom name="leg{i}" type="capsule" size="0.008" {wood} fromto="{0.045 * np.cos(a)} '
            f'{0.045 * np.sin(a)} 0.01 {0.012 * np.cos(a)} {0.012 * np.sin(a)} 0.075"/>'
            for i, a in enumerate((0.5, 2.6, 4.7))
        )
        foot, below = 0.085, RING_HEIGHT - ring / 2 - RING_BAR
        offset, outer = ring / 2 + RING_BAR / 2, ring / 2 + RING_BAR
        bars = "".join(
            f'<geom name="ring_{side}" type="box" pos="0 {y} {RING_HEIGHT + z}" '
            f'size="{RING_DEPTH} {sy} {sz}" {orange}/>'
            for side, y, z, sy, sz in (
                ("top", 0.0, offset, outer, RING_BAR / 2),
                ("bottom", 0.0, -offset, outer, RING_BAR / 2),
                ("left", offset, 0.0, RING_BAR / 2, ring / 2),
                ("right", -offset, 0.0, RING_BAR / 2, ring / 2),
            )
        )
        return f"""
        <body name="tripod" pos="0 -0.15 {TABLE_Z}">{legs}
          <geom name="plate" type="box" pos="0 0 0.08" size="0.03 0.03 0.005" {wood}/>
          <geom name="post" type="box" pos="0 0 {(foot + below) / 2}" size="0.005 0.005 {(below - foot) / 2}" {wood}/>
          {bars}</body>
        <body name="needle" pos="-0.1 0.2 0.83"><freejoint name="needle_free"/>
          <geom name="handle" type="box" size="{0.02 * wide} 0.02 0.02" friction="1.2 0.005 0.0001"
            rgba="0.10 0.55 0.20 1" density="200"/>
          <geom name="shaft" type="box" pos="0.08 0 0" size="{SHAFT} {0.005 * wide} {0.005 * wide}"
            friction="0.3 0.005 0.0001" rgba="0.10 0.15 0.55 1" density="200"/></body>"""

    def place(self, rng: np.random.Generator) -> None:
        start = draw_ranges(rng, _RANGES, self.variant.positions)
        self.put_fixed("tripod", (start["ring_x"], start["ring_y"], TABLE_Z), start["ring_yaw"])
        self.put_free("needle_free", (start["needle_x"], start["needle_y"], TABLE_Z + 0.0205), start["needle_yaw"])

    def ring(self) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
        """The ring's centre (m) and the unit vector along its axis."""
        position, rotation = self.body_pose("tripod")
        return position + np.array([0.0, 0.0, RING_HEIGHT]), rotation[:, 0]

    def shaft(self) -> Float[np.ndarray, " 3"]:
        """Centre (m) of the needle's shaft."""
        return self.data.geom("shaft").xpos.copy()

    def succeeded(self) -> bool:
        return bool(np.linalg.norm(self.shaft() - self.ring()[0]) < SUCCESS_DISTANCE)

    def landmarks(self) -> dict[str, np.ndarray]:
        needle, rotation = self.body_pose("needle")
        tip = needle + rotation @ [0.08 + SHAFT, 0.0, 0.0]
        return {**super().landmarks(), "handle": needle, "tip": tip, "ring": self.ring()[0]}

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        direction, grasp_yaw, turn = self._plan()
        axis = direction * self.ring()[1]
        threaded = np.column_stack([axis, np.cross([0.0, 0.0, 1.0], axis), [0.0, 0.0, 1.0]])
        grasp = about_z(grasp_yaw) @ DOWN
        carry_height = TABLE_Z + (0.21 if direction < 0 else 0.32)  # the far side is reached over the ring

        def needle(up: float) -> Float[np.ndarray, " 3"]:
            return self.body_pose("needle")[0] + [0.0, 0.0, up]

        def lifted() -> list[Goal]:
            here = self.hand()[0]
            return [Goal(np.array([here[0], here[1], carry_height + style.hover]), grasp, CLOSE)]

        def bring(before: float, up: float = 0.0, ahead: float | None = None) -> list[Goal]:
            """Hand pose that puts the shaft's centre `before` m ahead of the ring's; closed loop on the needle.

            `ahead`: the target runs at most this far ahead along the axis, so that sideways errors keep their gain.
            """
            shaft, rotation = self.shaft(), self.body_pose("needle")[1]
            position, turned = self.hand()
            missing = threaded @ rotation.T
            if ahead is not None:
                before = max(before, float((self.ring()[0] - shaft) @ axis) - ahead)
            wanted = self.ring()[0] - before * axis + [0.0, 0.0, up]
            return [Goal(wanted + missing @ (position - shaft), missing @ turned, CLOSE)]

        aside = np.array([*style.sideways, 0.0])
        turned_hand = about_z(grasp_yaw + turn) @ DOWN

        def transport() -> list[Goal]:
            goal = bring(0.10, 0.02)[0]
            # turn the short way that joint 7 allows, also where the needle has to turn by nearly half a circle
            missing = nearest_angle(yaw_of(turned_hand) - yaw_of(self.hand()[1]), 0.0)
            far = abs(turn) > 2.0 and np.abs(missing) > 1.0
            return [Goal(goal.position, turned_hand, CLOSE)] if far else [goal]

        return [
            Phase(
                "reach",
                lambda: [Goal(needle(0.08 + style.hover) + aside, grasp, OPEN)],
                tolerance=0.015,
                turn_tolerance=0.08,
                gain=2.0,
            ),
            Phase("descend", lambda: [Goal(needle(0.0), grasp, OPEN)], **{**ONTO, "turn_tolerance": 0.05}),
            Phase("grasp", lambda: [Goal(needle(0.0), grasp, CLOSE)], hold=7, **WAITING),
            Phase("lift", lifted, tolerance=0.05, once=True),
            Phase("transport", transport, tolerance=0.02, turn_tolerance=0.10),
            Phase(
                "align", lambda: bring(0.085), tolerance=0.003, turn_tolerance=0.05, limit=60, gain=1.2, precise=True
            ),
            Phase("insert", lambda: bring(-0.004, ahead=0.012), gain=1.5, precise=True, **LAST),
        ]

    def _plan(self) -> tuple[float, float, float]:
        """Direction of insertion along the ring's axis, yaw of the grasp, turn of the hand after it (rad)."""
        (needle, rotation), (ring, axis) = self.body_pose("needle"), self.ring()
        tip = yaw_of(rotation)
        base = np.array([-0.56, 0.0])

        def comfort(xy: np.ndarray) -> float:
            """Yaw in the middle of joint 7's range for a hand above `xy`."""
            return 2.27 + float(np.arctan2(*(xy[:2] - base)[::-1]))

        best = (np.inf, 0.0, 0.0, 0.0)
        for direction in (-1.0, 1.0):
            wanted = float(np.arctan2(direction * axis[1], direction * axis[0]))
            before = ring[:2] - 0.14 * direction * axis[:2]
            turn = nearest_angle(wanted - tip, 0.0)
            stretch = max(0.0, float(np.linalg.norm(before - base)) - 0.68)
            for side in (np.pi / 2, -np.pi / 2):
                grasp = nearest_angle(tip + side, NEUTRAL_YAW)
                worst = max(abs(grasp - comfort(needle)), abs(grasp + turn - comfort(before)))
                cost = worst + 0.2 * abs(turn) + (1.5 if direction > 0 else 0.0) + 30 * stretch
                best = min(best, (cost, direction, grasp, turn))
        return best[1:]
