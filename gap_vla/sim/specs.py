"""The nine tasks by name: what a user needs to know about one before any simulator is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Literal

from gap_vla.core.columns import DELTA, POSE, Columns
from gap_vla.core.config import choose

CAMERAS = ("primary", "wrist")
SETTLE_STEPS = 5
"""Steps that an episode goes on after its first success, so that its end can be seen (and must hold)."""


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """One task, without its simulator.

    Attributes:
        name: short name (`"threading"`).
        family: the simulator it runs on; both are MuJoCo underneath.
        n_arms: number of arms; proprio and action are this many blocks side by side.
        horizon: steps after which an episode is truncated (the paper's 200 / 400).
        control_hz: actions per simulated second.
        instruction: what the robot is told.
        phases: the scripted expert's phase names, in the order in which they can occur.
        position_scale: metres that an action of 1 asks for per step. In `metaworld` it moves the target of a soft
            weld (the hand follows with a lag); in `robosuite` it is the goal's offset from the *achieved* pose, so
            that the arm covers about a quarter of it within a step.
        rotation_scale: radians that an action of 1 asks for per step, 0 where orientation cannot be commanded.
    """

    name: str
    family: Literal["metaworld", "robosuite"]
    n_arms: int
    horizon: int
    control_hz: int
    instruction: str
    phases: tuple[str, ...]
    position_scale: float
    rotation_scale: float

    @property
    def columns(self) -> Columns:
        """Of the state, per arm: eef xyz (m, world), quaternion wxyz, two finger positions (m)."""
        return POSE.times(self.n_arms)

    @property
    def action_columns(self) -> Columns:
        """Of the action, per arm: delta xyz, delta rotation vector (both world frame), gripper; all in [-1, 1]."""
        return DELTA.times(self.n_arms)

    @property
    def proprio_dim(self) -> int:
        return self.columns.width

    @property
    def action_dim(self) -> int:
        return self.action_columns.width

    @property
    def views(self) -> tuple[str, ...]:
        """What the primary camera can show: the task's own view `near`, or a camera of the simulator's model."""
        if self.family == "metaworld":
            return ("near", "topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")
        arms = [f"robot{arm}_{view}" for arm in range(self.n_arms) for view in ("robotview", "eye_in_hand")]
        return ("near", "frontview", "birdview", "agentview", "sideview", *arms)

    def require_cameras(self, cameras: Sequence[str], view: str) -> None:
        """Raises ConfigError for cameras other than `primary` and `wrist`, or an unknown view."""
        for camera in cameras:
            choose(camera, CAMERAS, "camera")
        choose(view, self.views, "view")

    @property
    def pictures_version(self) -> int:
        """Raised when the picture of a state changes, so that old demonstrations are not mixed with new rollouts.

        robosuite 2: the arm is drawn with fewer triangles, textures without blending of their sizes. robosuite 3 and
        disassemble 2: no part of the arm is left out any more.
        """
        return 3 if self.family == "robosuite" else 2 if self.name == "disassemble" else 1

    @property
    def class_name(self) -> str:
        """Of its world, `HammerDrawer` for `hammer_drawer`."""
        return self.name.title().replace("_", "")

    @property
    def module(self) -> str:
        """Of its world; the tasks of Meta-World share one."""
        return f"gap_vla.sim.tasks.{self.name if self.family == 'robosuite' else self.family}"

    @property
    def gymnasium_id(self) -> str:
        """The name under which gymnasium knows the task (`"gap_vla/Threading-v0"`)."""
        return f"gap_vla/{self.class_name}-v0"


def _metaworld(name: str, instruction: str, phases: str) -> TaskSpec:
    return TaskSpec(name, "metaworld", 1, 200, 80, instruction, tuple(phases.split()), 0.01, 0.0)


def _robosuite(name: str, instruction: str, phases: str, n_arms: int = 1) -> TaskSpec:
    return TaskSpec(name, "robosuite", n_arms, 400, 20, instruction, tuple(phases.split()), 0.05, 0.5)


_SPECS = (
    _metaworld("pick_place", "pick up the puck and bring it to the goal", "reach descend grasp transport"),
    _metaworld("assembly", "put the ring of the wrench over the peg", "reach descend grasp lift transport insert"),
    _metaworld("disassemble", "pull the wrench off the peg", "reach descend grasp extract"),
    _metaworld(
        "push_wall",
        "push the puck around the wall to the goal",
        "reach descend grasp push sidestep pass_wall finish",
    ),
    _metaworld(
        "bin_picking",
        "move the cube from the left bin into the right bin",
        "reach descend grasp lift transport lower",
    ),
    _robosuite(
        "stack",
        "stack the red cube on the green cube",
        "reach descend grasp lift transport place release retreat",
    ),
    _robosuite("threading", "thread the needle through the ring", "reach descend grasp lift transport align insert"),
    _robosuite(
        "hammer_drawer",
        "open the drawer, put the hammer in and close the drawer",
        "reach_handle descend_handle grasp_handle open let_go rise "
        "reach_hammer descend_hammer grasp_hammer lift transport lower release retreat "
        "reach_front descend_front close",
    ),
    _robosuite(
        "handover",
        "hand the bar over from one arm to the other",
        "reach descend grasp lift present reach_taker descend_taker grasp_taker release_giver retreat_giver carry",
        n_arms=2,
    ),
)
_BY_NAME = {spec.name: spec for spec in _SPECS}

TASK_NAMES: tuple[str, ...] = tuple(_BY_NAME)
"""Short names of all tasks."""


def task_spec(name: str) -> TaskSpec:
    """The specification of a task.

    >>> task_spec("handover").action_dim
    14
    """
    return _BY_NAME[choose(name, TASK_NAMES, "task")]


def register_with_gymnasium() -> None:
    """Registers every task once; without gymnasium (no `sim` extra) there is nothing to register with."""
    if importlib.util.find_spec("gymnasium") is None:
        return
    import gymnasium

    for name in TASK_NAMES:
        gymnasium_id = task_spec(name).gymnasium_id
        if gymnasium_id not in gymnasium.registry:
            # the environment ends its own episodes: gymnasium's time limit would count them a second time
            gymnasium.register(gymnasium_id, "gap_vla.sim.environment:make", kwargs={"name": name})
