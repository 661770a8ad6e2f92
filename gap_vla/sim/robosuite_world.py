"""Base of the robosuite tasks: where things are, how the arms move, what a seed determines."""

from __future__ import annotations

import abc
import contextlib
import io
import logging
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np
from jaxtyping import Float

from gap_vla.sim.appearance import distractors_mjcf, patterns_mjcf
from gap_vla.sim.arm_control import ArmController
from gap_vla.sim.cameras import View
from gap_vla.sim.mesh_detail import simplify_meshes
from gap_vla.sim.world import Goal, World

# robosuite complains about optional parts while it is imported
with contextlib.redirect_stderr(io.StringIO()):
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.tasks import ManipulationTask
logging.getLogger("robosuite_logs").setLevel(logging.ERROR)

TABLE_Z = 0.8
"""Height of the table's surface (m)."""
DOWN = np.diag([1.0, -1.0, -1.0])
"""Rotation of a grip site that points straight down; the fingers open along the site's x axis."""
NEUTRAL_YAW = np.pi / 2
"""Panda's own yaw at the start; its last joint allows about -25 to +290 degrees."""
MAX_TURN = 0.5
"""Largest rotation command: turning faster drags the position along."""
ROUND = 20, 4
"""Slices around and rings along each cylinder and capsule that is drawn (MuJoCo's own are 28 and 16)."""
TIMESTEP, SUBSTEPS = 0.002, 25
"""Seconds of a physics step, and how many an action has."""


class RobosuiteWorld(World):
    """Base of the robosuite tasks. Subclasses give `bodies`, `place`, `succeeded`, `expert_phases`, `landmarks`."""

    success_must_hold = True
    wrist = View((0.0, -0.09, -0.09), (0.0, -0.065, 0.04), 80.0, (0.0, -1.0, 0.0), "gripper0_right_eef")
    groups = (1,)
    table_height = TABLE_Z
    bases: ClassVar[Sequence[tuple[float, Sequence[float]]]] = ((0.0, (0.0, 0.0, 0.0)),)
    friction: ClassVar[tuple[float, float, float]] = (1.0, 0.005, 0.0001)
    coarse: ClassVar[Mapping[str, tuple[float, int]]] = {
        **{part: (0.1, 300) for part in ("mount", "pedestal", "controller_box", "base")},
        **{f"link{i}": (0.1, 300) for i in range(7)},
        "link7": (0.1, 150),
        "right_gripper": (0.25, 300),
    }
    """Bodies whose name contains one of these are drawn with this share of their triangles, but at least this many of
    each mesh. A test holds the links' surfaces to 4 mm, less than a pixel. The fingers keep all."""

    def build(self) -> tuple[Any, Any]:
        bodies = self.bodies() + distractors_mjcf(self.variant.distractors, f"0 0 {TABLE_Z}")
        with _global_numpy_rng(0):
            self.env = PrimitiveEnv(bodies, patterns_mjcf() if self.variant.table else "", self.friction, self.bases)
        model, data = self.env.sim.model._model, self.env.sim.data._data
        model.opt.timestep = TIMESTEP  # a program's or user's macros of robosuite may say another
        bodies_of_geoms = [model.body(body).name for body in model.geom_bodyid]
        for part, (keep, least) in self.coarse.items():
            geoms = [geom for geom, body in enumerate(bodies_of_geoms) if part in body]
            simplify_meshes(model, geoms, keep, least)
        model.vis.quality.numslices, model.vis.quality.numstacks = ROUND
        self._robots = self.env.robots
        self._eef = [robot.eef_site_id["right"] for robot in self._robots]
        self._finger_addresses = [robot._ref_gripper_joint_pos_indexes["right"] for robot in self._robots]
        scale = self.spec.position_scale, self.spec.rotation_scale
        self._controllers = [ArmController(model, data, robot, scale) for robot in self._robots]
        self._inertia = np.zeros((model.nv, model.nv))
        self._fixed = model.body_pos.copy(), model.body_quat.copy()
        return model, data

    @abc.abstractmethod
    def bodies(self) -> str:
        """MJCF of the task's bodies; sizes follow `self.variant.size`."""

    def begin(self, rng: np.random.Generator) -> None:
        with _global_numpy_rng(int(rng.integers(2**32))):  # robosuite draws its joint noise from numpy's global state
            self.model.body_pos[:], self.model.body_quat[:] = self._fixed  # the last episode moved fixtures
            self.env.reset()
        for controller, robot in zip(self._controllers, self._robots):
            controller.reset(robot.part_controllers["right"].initial_joint)
        self.data.qacc_warmstart[:] = 0.0  # the solver's memory of what came before

    def step(self, action: Float[np.ndarray, " a"]) -> None:
        for substep in range(SUBSTEPS):
            mujoco.mj_step1(self.model, self.data)
            if substep == 0:
                for controller, command in zip(self._controllers, action.reshape(-1, 7)):
                    controller.aim(command)
            mujoco.mj_fullM(self.model, self._inertia, self.data.qM)
            for controller in self._controllers:
                controller.apply(self._inertia)
            mujoco.mj_step2(self.model, self.data)
        mujoco.mj_kinematics(self.model, self.data)  # what is seen and measured belongs to the state after the step
        mujoco.mj_camlight(self.model, self.data)

    def hand(self, arm: int = 0) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
        site = self._eef[arm]
        return self.data.site_xpos[site].copy(), self.data.site_xmat[site].reshape(3, 3).copy()

    def fingers(self, arm: int = 0) -> Float[np.ndarray, " 2"]:
        return self.data.qpos[self._finger_addresses[arm]]

    def servo(self, arm: int, goal: Goal, gain: float, speed: float) -> Float[np.ndarray, " 7"]:
        here, turned = self.hand(arm)
        move = (goal.position - here) * (gain / self.spec.position_scale)
        turn = np.zeros(3) if goal.rotation is None else _as_rotation_vector(goal.rotation @ turned.T)
        turn = turn * (gain / self.spec.rotation_scale)
        # the vectors are scaled, not clipped per axis, so that paths stay straight
        move *= min(1.0, speed / max(np.abs(move).max(), 1e-9))
        turn *= min(1.0, min(speed, MAX_TURN) / max(np.abs(turn).max(), 1e-9))
        return np.concatenate([move, turn, [goal.gripper]])

    def is_table(self, geom: str, body: str) -> bool:
        return geom == "table_visual"

    def landmarks(self) -> dict[str, np.ndarray]:
        return {f"hand{arm}": self.hand(arm)[0] for arm in range(self.spec.n_arms)}

    def put_free(self, joint: str, position: Sequence[float], yaw: float) -> None:
        """Puts a free body to a position (m), turned by `yaw` (rad) about the vertical."""
        self.data.joint(joint).qpos[:] = [*position, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]

    def put_fixed(self, body: str, position: Sequence[float], yaw: float) -> None:
        """Puts a body that has no joint to a position (m), turned by `yaw` (rad) about the vertical."""
        index = self.model.body(body).id
        self.model.body_pos[index] = position
        self.model.body_quat[index] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]

    def holds(self, geoms: Sequence[str], arm: int = 0) -> bool:
        """Whether both fingers of an arm touch one of these (colliding) geoms."""
        return bool(self.env._check_grasp(gripper=self._robots[arm].gripper["right"], object_geoms=list(geoms)))

    def touch(self, first: str, second: str) -> bool:
        """Whether two (colliding) geoms are in contact."""
        return bool(self.env.check_contact(first, second))

    def close(self) -> None:
        self.env.close()


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


def about_z(angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a turn by `angle` (rad) about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def yaw_of(rotation: Float[np.ndarray, "3 3"]) -> float:
    """Direction (rad) of a rotated x axis, seen from above."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def nearest_angle(angle: float, reference: float, period: float = 2 * np.pi) -> float:
    """The angle equal to `angle` modulo `period` that is nearest to `reference` (rad)."""
    return reference + (angle - reference + period / 2) % period - period / 2


def _as_rotation_vector(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """Axis times angle (rad) of a rotation matrix."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


@contextlib.contextmanager
def _global_numpy_rng(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator inside the block and leaves the caller's state untouched."""
    kept = np.random.get_state()  # noqa: NPY002 - robosuite uses the global generator
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(kept)  # noqa: NPY002
