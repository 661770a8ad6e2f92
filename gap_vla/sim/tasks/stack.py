"""Stack: put the red cube on the green one. Ranges and success condition follow robosuite's and MimicGen's task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, LAST, ONTO, OPEN, WAITING, Phase, Style
from gap_vla.sim.robosuite_world import DOWN, NEUTRAL_YAW, TABLE_Z, RobosuiteWorld, about_z, nearest_angle, yaw_of
from gap_vla.sim.world import Goal

RED_HALF, GREEN_HALF = 0.02, 0.025
"""Half edges of the cubes (m)."""
_HALF_RANGE = {"default": 0.08, "wide": 0.14, "disjoint": 0.14}
"""Both cubes start within this distance of the table's middle, along x and along y (m)."""
_QUARTER = np.pi / 2


class Stack(RobosuiteWorld):
    """Two cubes with free yaw; success when red rests on green, above the table and let go."""

    near = View((0.631, -0.54, 1.632), (-0.015, 0.002, 0.925), 15.1)
    object_bodies = ("red", "green")

    def bodies(self) -> str:
        red = RED_HALF * self.variant.size
        return f"""
        <body name="red" pos="0 0 {TABLE_Z + red}"><freejoint name="red_free"/>
          <geom name="red" type="box" size="{red} {red} {red}" rgba="0.85 0.10 0.10 1" density="500"/></body>
        <body name="green" pos="0 0.1 {TABLE_Z + GREEN_HALF}"><freejoint name="green_free"/>
          <geom name="green" type="box" size="{GREEN_HALF} {GREEN_HALF} {GREEN_HALF}" rgba="0.10 0.65 0.15 1"
            density="500"/></body>"""

    def place(self, rng: np.random.Generator) -> None:
        half, inner = _HALF_RANGE[self.variant.positions], _HALF_RANGE["default"]
        while True:
            red, green = rng.uniform(-half, half, (2, 2))
            apart = np.linalg.norm(red - green) > np.hypot(2 * RED_HALF, 2 * GREEN_HALF)
            outside = self.variant.positions != "disjoint" or max(np.abs(red).max(), np.abs(green).max()) > inner
            if apart and outside:
                break
        red_yaw, green_yaw = rng.uniform(0, 2 * np.pi, 2)
        self.put_free("red_free", (*red, TABLE_Z + RED_HALF * self.variant.size), red_yaw)
        self.put_free("green_free", (*green, TABLE_Z + GREEN_HALF), green_yaw)

    def succeeded(self) -> bool:
        red, green = self.body_pose("red")[0], self.body_pose("green")[0]
        lifted = red[2] > TABLE_Z + 2 * GREEN_HALF + 0.5 * RED_HALF
        above = bool(np.abs(red - green)[:2].max() < GREEN_HALF)
        return bool(lifted and above and self.touch("red", "green") and not self.holds(["red"]))

    def landmarks(self) -> dict[str, np.ndarray]:
        return {**super().landmarks(), **{name: self.body_pose(name)[0] for name in self.object_bodies}}

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        grasp_yaw, place_yaw = self._plan()
        grasp, placed = about_z(grasp_yaw) @ DOWN, about_z(place_yaw) @ DOWN
        aside = np.array([*style.sideways, 0.0])

        def red(up: float) -> np.ndarray:
            return self.body_pose("red")[0] + np.array([0.0, 0.0, up])

        def carried(up: float) -> list[Goal]:
            """Hand pose that puts the held cube `up` m above its resting place; closed loop on the cube."""
            rest = self.body_pose("green")[0] + np.array([0.0, 0.0, GREEN_HALF + RED_HALF * self.variant.size + up])
            return [Goal(self.hand()[0] + rest - self.body_pose("red")[0], placed, CLOSE)]

        def here(up: float, rotation: np.ndarray, gripper: float) -> list[Goal]:
            return [Goal(self.hand()[0] + np.array([0.0, 0.0, up]), rotation, gripper)]

        return [
            Phase("reach", lambda: [Goal(red(0.09 + style.hover) + aside, grasp, OPEN)], tolerance=0.02, gain=2.0),
            Phase("descend", lambda: [Goal(red(0.0), grasp, OPEN)], **{**ONTO, "gain": 2.0}),
            Phase("grasp", lambda: here(0.0, grasp, CLOSE), hold=7, **WAITING),
            Phase("lift", lambda: here(0.11 + style.hover, grasp, CLOSE), tolerance=0.03, once=True),
            Phase("transport", lambda: carried(0.05 + style.hover), tolerance=0.010, turn_tolerance=0.08, gain=2.0),
            Phase("place", lambda: carried(0.002), tolerance=0.005, speed=0.5, limit=40, precise=True),
            Phase("release", lambda: here(0.0, placed, OPEN), hold=5, **WAITING),
            Phase("retreat", lambda: here(0.10, placed, OPEN), once=True, **LAST),
        ]

    def _plan(self) -> tuple[float, float]:
        """Yaw of the hand (rad) at the grasp and when the faces of the cubes are aligned."""
        (red, red_rotation), (green, green_rotation) = self.body_pose("red"), self.body_pose("green")
        grasp = nearest_angle(yaw_of(red_rotation), NEUTRAL_YAW, _QUARTER)
        offset = (green - red)[:2]
        distance = np.linalg.norm(offset)
        if distance < 0.11 and abs(np.array([np.cos(grasp), np.sin(grasp)]) @ offset) > 0.72 * distance:
            grasp += _QUARTER if grasp < NEUTRAL_YAW else -_QUARTER  # a finger would come down on the green cube
        place = nearest_angle(yaw_of(green_rotation), grasp, _QUARTER)
        if not 0.0 <= place <= np.pi:  # the last joint's stop
            place += _QUARTER if place < 0 else -_QUARTER
        return grasp, place
