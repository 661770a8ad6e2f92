"""Hammer in drawer: open a drawer, put a hammer in, close it. Ranges follow the robosuite task zoo and MimicGen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, LAST, ONTO, OPEN, WAITING, Phase, Style
from gap_vla.sim.robosuite_world import DOWN, NEUTRAL_YAW, TABLE_Z, RobosuiteWorld, about_z, nearest_angle, yaw_of
from gap_vla.sim.variants import draw_ranges
from gap_vla.sim.world import Goal

TRAVEL = 0.14
"""How far the drawer opens (m), towards -y."""
_RANGES = {
    "hammer_x": ((0.10, 0.18), (0.02, 0.19)),
    "hammer_y": ((-0.20, -0.13), (-0.24, -0.10)),
    "hammer_yaw": ((-0.1, 0.1), (-0.5, 0.5)),
    "cabinet_x": ((0.10, 0.10), (0.07, 0.13)),
    "cabinet_y": ((0.32, 0.32), (0.31, 0.34)),
}
"""Positions (m) and yaw (rad): the default ranges, and the wide ones."""
_SIDE = about_z(np.pi / 2) @ DOWN
"""Hand pointing down with the fingers opening along y, across the drawer's handle."""


def _box(name: str, position: str, size: str, color: str, extra: str = "") -> str:
    return f'<geom name="{name}" type="box" pos="{position}" size="{size}" rgba="{color} 1" {extra}/>'


class HammerDrawer(RobosuiteWorld):
    """A closed drawer and a hammer; success when the hammer is in the drawer, the drawer shut, the hammer let go."""

    near = View((0.701, -0.688, 1.631), (0.11, 0.017, 0.86), 24.5)
    friction = (0.6, 0.005, 0.0001)
    object_bodies = ("cabinet", "drawer", "hammer")

    def bodies(self) -> str:
        red, wood, blue, steel = "0.55 0.16 0.13", "0.72 0.42 0.22", "0.15 0.30 0.60", "0.55 0.58 0.62"
        k = self.variant.size
        cabinet = (
            _box("cabinet_left", "-0.110 0 0.056", "0.006 0.10 0.056", red)
            + _box("cabinet_right", "0.110 0 0.056", "0.006 0.10 0.056", red)
            + _box("cabinet_back", "0 0.096 0.056", "0.104 0.004 0.056", red)
            + _box("cabinet_top", "0 0 0.117", "0.116 0.10 0.005", red)
            + _box("cabinet_bottom", "0 0 0.004", "0.104 0.10 0.004", red)
        )
        drawer = (
            _box("drawer_floor", "0 0 0.016", "0.098 0.085 0.004", wood)
            + _box("drawer_left", "-0.094 0 0.050", "0.004 0.085 0.028", wood)
            + _box("drawer_right", "0.094 0 0.050", "0.004 0.085 0.028", wood)
            + _box("drawer_back", "0 0.081 0.050", "0.090 0.004 0.028", wood)
            + _box("drawer_front", "0 -0.091 0.058", "0.103 0.006 0.046", wood)
        )
        # the bar stands 7 cm before the drawer's face, otherwise a finger comes down on the cabinet
        handle = (
            _box("handle_left", "-0.050 -0.131 0.098", "0.006 0.034 0.006", blue)
            + _box("handle_right", "0.050 -0.131 0.098", "0.006 0.034 0.006", blue)
            + _box("handle_bar", "0 -0.172 0.098", "0.056 0.007 0.007", blue, 'friction="1.2 0.005 0.0001"')
        )
        grip = 'density="400" friction="1.2 0.005 0.0001"'
        return f"""
        <body name="cabinet" pos="0.10 0.32 {TABLE_Z}">{cabinet}
          <body name="drawer"><joint name="slide" type="slide" axis="0 1 0" range="-{TRAVEL} 0" limited="true"
              damping="25" frictionloss="1"/>{drawer}{handle}</body></body>
        <body name="hammer" pos="0.14 -0.16 0.83"><freejoint name="hammer_free"/>
          {_box("hammer_handle", "0 0 0", f"{0.05 * k} {0.011 * k} {0.011 * k}", wood, grip)}
          {_box("hammer_head", f"{0.063 * k} 0 0", f"{0.013 * k} {0.030 * k} {0.013 * k}", steel, 'density="600"')}
        </body>"""

    def place(self, rng: np.random.Generator) -> None:
        start = draw_ranges(rng, _RANGES, self.variant.positions)
        self.put_fixed("cabinet", (start["cabinet_x"], start["cabinet_y"], TABLE_Z), 0.0)
        height = TABLE_Z + 0.0135 * self.variant.size
        self.put_free("hammer_free", (start["hammer_x"], start["hammer_y"], height), start["hammer_yaw"])

    @property
    def opened(self) -> float:
        """How far the drawer is open (m)."""
        return -float(self.data.joint("slide").qpos[0])

    def succeeded(self) -> bool:
        x, y, z = self.body_pose("hammer")[0] - self.body_pose("drawer")[0]
        inside = abs(x) < 0.09 and abs(y) < 0.085 and 0.015 < z < 0.08
        return bool(inside and self.opened < 0.01 and not self.holds(["hammer_handle"]))

    def bar(self) -> np.ndarray:
        """Middle (m) of the drawer's handle."""
        return self.data.geom("handle_bar").xpos.copy()

    def landmarks(self) -> dict[str, np.ndarray]:
        hammer, rotation = self.body_pose("hammer")
        head = hammer + rotation @ np.array([0.07, 0.0, 0.0])
        return {**super().landmarks(), "hammer": hammer, "head": head, "bar": self.bar()}

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        across = nearest_angle(yaw_of(self.body_pose("hammer")[1]) + np.pi / 2, NEUTRAL_YAW, np.pi)
        grasp = about_z(across) @ DOWN
        shut = self.bar()
        aside = np.array([*style.sideways, 0.0])

        def at_bar(up: float, before: float = 0.0) -> np.ndarray:
            return self.bar() + np.array([0.0, -before, up])

        def at_hammer(up: float) -> np.ndarray:
            """Over the handle, 2 cm behind its middle: hands beyond x = 0.18 stretch the arm until it locks."""
            hammer, rotation = self.body_pose("hammer")
            return hammer + rotation @ np.array([-0.02, 0.0, 0.0]) + np.array([0.0, 0.0, up])

        def in_drawer(height: float) -> np.ndarray:
            """Over the middle of the drawer's open part."""
            cabinet, drawer = self.body_pose("cabinet")[0], self.body_pose("drawer")[0]
            return np.array([cabinet[0] - 0.033, (drawer[1] - 0.085 + cabinet[1] - 0.10) / 2, TABLE_Z + height])

        def stay(rotation: np.ndarray, gripper: float, move: Sequence[float] = (0.0, 0.0, 0.0)) -> list[Goal]:
            return [Goal(self.hand()[0] + np.array(move), rotation, gripper)]

        def lifted() -> list[Goal]:
            x, y, _ = self.hand()[0]  # pulled back on the way: straight up, the elbow reaches its stop
            return [Goal(np.array([min(x, 0.08), y, TABLE_Z + 0.16 + style.hover]), grasp, CLOSE)]

        def retreated() -> list[Goal]:
            return [Goal(np.array([*self.hand()[0][:2], TABLE_Z + 0.20]), _SIDE, OPEN)]

        def pushing() -> list[Goal]:
            x, y, z = self.bar()
            return [Goal(np.array([x, min(y + 0.02, shut[1] + 0.012), z + 0.004]), _SIDE, CLOSE)]

        def taken(what: str, at: Callable[[float], np.ndarray], up: float, low: float, turn: np.ndarray) -> list[Phase]:
            """To a place above the handle or the hammer, down to it, and the fingers shut; `up` and `low` in m."""
            above = up + style.hover
            return [
                Phase(f"reach_{what}", lambda: [Goal(at(above) + aside, turn, OPEN)], tolerance=0.02, gain=2.0),
                Phase(f"descend_{what}", lambda: [Goal(at(low), turn, OPEN)], **ONTO),
                Phase(f"grasp_{what}", lambda: stay(turn, CLOSE), hold=9, **WAITING),
            ]

        return [
            *taken("handle", at_bar, 0.08, 0.002, _SIDE),
            Phase(
                "open",
                lambda: stay(_SIDE, CLOSE, (0.0, -TRAVEL - 0.02, 0.0)),
                speed=0.8,
                until=lambda: self.opened > TRAVEL - 0.008,
                limit=60,
                once=True,
            ),
            Phase("let_go", lambda: stay(_SIDE, OPEN), hold=6, **WAITING),
            Phase("rise", lambda: stay(_SIDE, OPEN, (0.0, 0.0, 0.12)), tolerance=0.05, once=True),
            *taken("hammer", at_hammer, 0.10, 0.0, grasp),
            Phase("lift", lifted, tolerance=0.03, gain=1.5, once=True),
            Phase(
                "transport",
                lambda: [Goal(in_drawer(0.17), _SIDE, CLOSE)],
                tolerance=0.012,
                gain=1.5,
                stay=2,
                precise=True,
            ),
            Phase(
                "lower",
                lambda: [Goal(in_drawer(0.095), _SIDE, CLOSE)],
                tolerance=0.010,
                gain=1.5,
                limit=40,
                precise=True,
            ),
            Phase("release", lambda: stay(_SIDE, OPEN), hold=7, **WAITING),
            Phase("retreat", retreated, tolerance=0.04, once=True),
            Phase(
                "reach_front",
                lambda: [Goal(at_bar(0.08, before=0.07), _SIDE, CLOSE)],
                tolerance=0.02,
                turn_tolerance=0.2,
                hold=8,
            ),
            Phase(
                "descend_front",
                lambda: [Goal(at_bar(0.004, before=0.07), _SIDE, CLOSE)],
                tolerance=0.012,
                turn_tolerance=0.2,
                gain=1.5,
            ),
            Phase("close", pushing, gain=3.0, **LAST),
        ]
