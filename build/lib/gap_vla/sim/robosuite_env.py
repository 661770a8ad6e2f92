"""The robosuite environment under our tasks: Panda arms at a table, and bodies given as MJCF."""

from __future__ import annotations

import contextlib
import io
import logging
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from gap_vla.sim.rotations import about_z

with contextlib.redirect_stderr(io.StringIO()):  # robosuite complains about optional parts while it is imported
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.tasks import ManipulationTask
logging.getLogger("robosuite_logs").setLevel(logging.ERROR)

TABLE_Z = 0.8
"""Height of the table's surface (m)."""


class PrimitiveEnv(ManipulationEnv):
    """The robosuite environment under a world: no observables, no rewards, no cameras of its own.

    Args:
        bodies: MJCF of the bodies on the table.
        assets: MJCF of further textures and materials.
        bases: (yaw, xyz offset) of each robot's base relative to robosuite's place at the table's edge.
    """

    def __init__(
        self,
        bodies: str,
        assets: str,
        friction: tuple[float, float, float],
        bases: Sequence[tuple[float, Sequence[float]]],
    ) -> None:
        self._bodies, self._assets, self._friction, self._bases = bodies, assets, friction, bases
        super().__init__(
            robots=["Panda"] * len(bases),
            env_configuration="default",
            initialization_noise="default",
            use_camera_obs=False,
            has_offscreen_renderer=False,
            renderer="mujoco",
            control_freq=20,
            ignore_done=True,
            hard_reset=False,  # keeps the model: 700 times faster, no leak, and the renderer stays valid
        )

    def _check_robot_configuration(self, robots: Any) -> None:
        """Any number of arms."""

    def _load_model(self) -> None:
        super()._load_model()
        size = (0.8, 0.8, 0.05)
        for robot, (yaw, offset) in zip(self.robots, self._bases):
            place = np.array(robot.robot_model.base_xpos_offset["table"](size[0]))
            robot.robot_model.set_base_xpos(about_z(yaw) @ place + np.array(offset))
            robot.robot_model.set_base_ori(np.array((0.0, 0.0, yaw)))
        arena = TableArena(size, self._friction, table_offset=(0, 0, TABLE_Z))
        arena.set_origin([0, 0, 0])
        for body in ET.fromstring(f"<bodies>{self._bodies}</bodies>"):
            _separate_seen_from_touched(body)
            arena.worldbody.append(body)
        arena.asset.extend(ET.fromstring(f"<asset>{self._assets}</asset>"))
        self.model = ManipulationTask(
            mujoco_arena=arena, mujoco_objects=[], mujoco_robots=[robot.robot_model for robot in self.robots]
        )

    def _setup_observables(self) -> OrderedDict:
        return OrderedDict()  # the world reads the state itself; updating sensors 25 times a step is not free

    def reward(self, action: Any = None) -> float:
        return 0.0

    def visualize(self, vis_settings: Any) -> None:
        """Nothing to show or hide: sites are not drawn."""


def _separate_seen_from_touched(root: ET.Element) -> None:
    """Splits every geom into one that collides and weighs (group 0) and a copy that is seen (group 1).

    robosuite compiles with inertiagrouprange="0 0", so only group 0 has mass, and shows group 1 only. A geom that
    sets its group stays as it is.
    """
    for body in list(root.iter("body")):
        for geom in body.findall("geom"):
            if "group" in geom.attrib:
                continue
            seen = {k: v for k, v in geom.attrib.items() if k not in ("density", "friction", "solref", "solimp")}
            seen["name"] = f"{geom.get('name')}_seen"
            ET.SubElement(body, "geom", {**seen, "contype": "0", "conaffinity": "0", "group": "1", "mass": "0"})
            geom.set("group", "0")
