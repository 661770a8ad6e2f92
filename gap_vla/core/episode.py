"""One demonstration in memory: named arrays with stated shapes, units and frames, validated once, at the boundary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gap_vla.core.columns import Arm, Columns
from gap_vla.core.errors import EpisodeError

LABELS = ("rho", "change_point")

HOW_TO_DESCRIBE = (
    "describe them with --columns (in Python: columns=), e.g. 'position quat_wxyz gripper:2' for a pose or "
    "'joints:6 gripper_01' for joints, or with --layout"
)


@dataclasses.dataclass(frozen=True)
class Episode:
    """One demonstration of `T` steps.

    Attributes:
        images: camera name (`"image_primary"`, `"image_wrist"`) to uint8[T, h, w, 3], row 0 is the top.
        proprio: float32[T, P]; `columns` describes it.
        action: float32[T, A]; `action_columns` describes it.
        language_instruction: what the robot is told to do; one text, or a tuple of one a step.
        success: whether the task was achieved.
        phase: the expert's own phase name per step, or None. Ground truth for change points, never a policy input.
        rho: float32[T] in [0, 1], probability that the step is in a motion transition, or None before annotation.
        change_point: bool[T], True at the first step of every segment but the first, or None before annotation.
        metadata: where the episode comes from (file, seed, task, …), as far as JSON can hold it.
        columns: None if nobody said what the columns are: such an episode trains, but gets no ρ.
        action_columns: likewise.
        poses: of each arm, where the state holds joints and the robot is known. Phases are found in them; they are
            neither stored nor shown to a policy.
    """

    images: Mapping[str, np.ndarray]
    proprio: np.ndarray
    action: np.ndarray
    language_instruction: str | tuple[str, ...] = ""
    success: bool = True
    phase: np.ndarray | None = None
    rho: np.ndarray | None = None
    change_point: np.ndarray | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    columns: Columns | None = None
    action_columns: Columns | None = None
    poses: tuple[Arm, ...] | None = None

    def __len__(self) -> int:
        return len(self.proprio)

    @property
    def name(self) -> str:
        """How error messages call this episode."""
        where = self.metadata.get("file_path", "memory")
        return f"{where}, episode {self.metadata.get('episode_id', '?')}"

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that there is, by camera or attribute."""
        given = {"rho": self.rho, "change_point": self.change_point, "phase": self.phase}
        optional = {key: value for key, value in given.items() if value is not None}
        return {**self.images, "proprio": self.proprio, "action": self.action, **optional}

    @property
    def has_pose(self) -> bool:
        """Whether the pose of each arm is known."""
        return self.poses is not None or (self.columns is not None and self.columns.has_pose)

    @property
    def moves_by_joints(self) -> bool:
        """Whether no pose is known, but the joints of each arm are: phases are found in them."""
        return not self.has_pose and self.columns is not None and self.columns.has_joints

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The poses of the arms. Raises EpisodeError: the columns are not described, or hold no position."""
        if self.poses is not None:
            return self.poses
        if self.columns is None:
            width = self.proprio.shape[1]
            raise EpisodeError(f"{self.name}: nobody said what the {width} columns of the state are; {HOW_TO_DESCRIBE}")
        try:
            return self.columns.split(self.proprio)
        except EpisodeError as error:
            raise EpisodeError(f"{self.name}: {error}") from None

    def replace(self, **changes: Any) -> Episode:
        return dataclasses.replace(self, **changes)

    def validate(self, where: str = "") -> Episode:
        """Returns the episode. Raises EpisodeError naming `where`, the field and the first bad step."""
        if fault := self.fault():
            raise EpisodeError(f"{where or self.name}: {fault}")
        return self

    def fault(self) -> str:
        """Why the episode cannot be used: the first thing that is wrong with its arrays; empty if nothing is."""
        steps = len(self.proprio)
        if steps == 0:
            return "no steps; drop the episode"
        for key, value in self.arrays.items():
            if len(value) != steps:
                return f"{key} has {len(value)} steps, proprio has {steps}"
            if value.dtype.kind == "f" and not (finite := np.isfinite(value).reshape(steps, -1).all(1)).all():
                return f"{key} is NaN or infinite at step {finite.argmin()}"
        for key, value in self.images.items():
            if value.dtype != np.uint8 or value.ndim != 4 or value.shape[-1] != 3:
                return f"{key} is {value.dtype}{[*value.shape]}, not uint8[T, h, w, 3]"
        for key, columns in {"proprio": self.columns, "action": self.action_columns}.items():
            value = self.arrays[key]
            if value.ndim != 2 or value.dtype.kind not in "fiu":
                return f"{key} is {value.dtype}{[*value.shape]}, not numbers in a row a step"
            if columns is not None and columns.width != value.shape[1]:
                return f"{key} has {value.shape[1]} columns, and '{columns}' describes {columns.width}"
        return ""
