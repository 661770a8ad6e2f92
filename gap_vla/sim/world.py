"""What an environment needs from a simulator: one small interface that both families implement."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from gap_vla.sim.appearance import Appearance
from gap_vla.sim.cameras import View
from gap_vla.sim.specs import TaskSpec
from gap_vla.sim.variants import Variant

MAX_STARTS = 100
"""Starts that are drawn before one with objects outside the picture is accepted."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """Where one arm should be: position (m, world), rotation matrix (None: not commanded), gripper command."""

    position: Float[np.ndarray, " 3"]
    rotation: Float[np.ndarray, "3 3"] | None
    gripper: float


class World(abc.ABC):
    """One task in one simulator, without pictures and without counting steps.

    Attributes:
        model, data: mujoco.MjModel and mujoco.MjData; the same objects for the world's whole life.
        success_must_hold: whether success counts only if it still holds SETTLE_STEPS later (robosuite's tasks), or
            as soon as it is reached (Meta-World's convention).
        episodes: how many its environment has begun, by which a plan knows its own.
    """

    model: Any
    data: Any
    success_must_hold: ClassVar[bool]
    groups: ClassVar[Sequence[int]]
    """Geom groups that are meant to be seen."""
    table_height: ClassVar[float]
    """Of the table's surface (m, world)."""
    near: ClassVar[View]
    wrist: ClassVar[View]
    """The task's own cameras, of image_primary and image_wrist."""
    object_bodies: ClassVar[Sequence[str]] = ()
    """Bodies that the task is about; Meta-World's first one is what the hand manipulates."""

    def __init__(self, spec: TaskSpec, variant: Variant) -> None:
        self.spec, self.variant, self.episodes = spec, variant, 0
        self.model, self.data = self.build()
        self._appearance = Appearance(self.model, variant, self.geoms("object"), self.geoms("table"))

    @abc.abstractmethod
    def build(self) -> tuple[Any, Any]:
        """Loads the simulator; returns the model and its data."""

    def reset(self, rng: np.random.Generator) -> None:
        """Starts the episode that `rng` determines completely, whatever happened before."""
        import mujoco

        self.begin(rng)
        for _ in range(MAX_STARTS):
            self.place(rng)
            mujoco.mj_kinematics(self.model, self.data)  # parts of the model were moved: positions are stale
            if self.starts_well():
                break
        middle = (*self.near.target[:2], self.table_height)
        self._appearance.redraw(rng, middle, self.landmarks().values(), self.near.pose(self.data))
        mujoco.mj_forward(self.model, self.data)

    def begin(self, rng: np.random.Generator) -> None:  # noqa: B027 - nothing, in Meta-World
        """Puts everything but the task's objects to where an episode starts."""

    @abc.abstractmethod
    def place(self, rng: np.random.Generator) -> None:
        """Draws where the task's objects start, and puts them there."""

    @abc.abstractmethod
    def step(self, action: Float[np.ndarray, " a"]) -> None:
        """Applies one action (7 per arm, in [-1, 1]) for one control period."""

    @abc.abstractmethod
    def succeeded(self) -> bool:
        """Whether the task's condition holds in the present state."""

    @abc.abstractmethod
    def hand(self, arm: int = 0) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
        """Pose of the end effector: position (m) and rotation matrix, world frame."""

    @abc.abstractmethod
    def fingers(self, arm: int = 0) -> Float[np.ndarray, " 2"]:
        """Finger positions (m): first ≥ 0, second ≤ 0, both 0 when closed on nothing."""

    @abc.abstractmethod
    def servo(self, arm: int, goal: Goal, gain: float, speed: float) -> Float[np.ndarray, " 7"]:
        """One arm's action towards a pose of the end effector, at most `speed` (0..1) of the full action."""

    @abc.abstractmethod
    def expert_phases(self, style: Any) -> Sequence[Any]:
        """The scripted expert's plan for the present episode (see gap_vla.sim.expert.Phase)."""

    @abc.abstractmethod
    def landmarks(self) -> Mapping[str, Float[np.ndarray, " 3"]]:
        """Positions (m, world) of gripper and task objects, which must stay inside the picture."""

    @abc.abstractmethod
    def is_table(self, geom: str, body: str) -> bool:
        """Whether a visible geom of a body is of the table, by their names."""

    def geoms(self, kind: str) -> Sequence[int]:
        """Ids of visible geoms: `object` (what the task is about) or `table`."""
        drawn = [geom for geom in range(self.model.ngeom) if self.model.geom_group[geom] in self.groups]
        names = {
            geom: (self.model.geom(geom).name, self.model.body(self.model.geom_bodyid[geom]).name) for geom in drawn
        }
        if kind == "table":
            return [geom for geom, of in names.items() if self.is_table(*of)]
        return [geom for geom, (_, body) in names.items() if body in self.object_bodies]

    def objects(self) -> dict[str, Float[np.ndarray, " 3"]]:
        """Positions (m, world) of the task's objects and goals, by name; the landmarks without the hands."""
        hands = {"hand", *(f"hand{arm}" for arm in range(self.spec.n_arms))}
        return {name: point for name, point in self.landmarks().items() if name not in hands}

    def body_pose(self, name: str) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
        """Position (m) and rotation matrix of a body, world frame."""
        body = self.data.body(name)
        return body.xpos.copy(), body.xmat.reshape(3, 3).copy()

    def proprio(self) -> Float[np.ndarray, " p"]:
        """float32[9 * arms]: per arm eef xyz (m, world), quaternion wxyz, two finger positions (m)."""
        import mujoco

        blocks = []
        for arm in range(self.spec.n_arms):
            position, rotation = self.hand(arm)
            quaternion = np.empty(4)
            mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
            blocks += [position, quaternion, self.fingers(arm)]
        return np.concatenate(blocks).astype(np.float32)

    def starts_well(self) -> bool:
        """Whether the objects are inside the near view; the wider starting ranges are cut to what can be seen."""
        if self.variant.positions == "default":
            return True
        pixels = self.near.pose(self.data).project(np.array(list(self.objects().values())), 1)
        return bool(((pixels > 0.03) & (pixels < 0.97)).all())

    def close(self) -> None:  # noqa: B027 - most worlds hold nothing but memory
        """Frees what the world holds besides memory."""
