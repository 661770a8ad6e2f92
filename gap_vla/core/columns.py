"""What the columns of a state or an action are: blocks of position, rotation, joints, gripper and other, per arm.

The text form goes through files, options and messages: `"position quat_wxyz gripper:2"`, with `|` between two arms.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError, EpisodeError

WORDS = {
    "position": (3, "x, y, z of the end effector, m"),
    "quat_wxyz": (4, "rotation as a quaternion, w first"),
    "quat_xyzw": (4, "rotation as a quaternion, w last"),
    "rotvec": (3, "rotation as axis times angle, rad"),
    "euler_xyz": (3, "rotation as roll, pitch, yaw about the fixed axes x, y, z, rad"),
    "rot6d": (6, "rotation as the first two columns of its matrix"),
    "joints": (None, "joint angles, rad"),
    "joints_deg": (None, "joint angles, degrees"),
    "joints_percent": (None, "joint positions, percent of their range"),
    "gripper": (1, "finger positions or opening, m"),
    "gripper_01": (1, "opening or command of the gripper without unit"),
    "other": (None, "anything else"),
}
"""Word to the width of its block (None: must be said, as `joints:6`) and its meaning."""

ROTATIONS = ("quat_wxyz", "quat_xyzw", "rotvec", "euler_xyz", "rot6d")


@dataclasses.dataclass(frozen=True)
class Block:
    """Neighbouring columns of one kind, e.g. `gripper:2`."""

    word: str
    width: int

    @property
    def kind(self) -> str:
        """`position`, `rotation`, `joints`, `gripper` or `other`."""
        return "rotation" if self.word in ROTATIONS else self.word.partition("_")[0]

    def __str__(self) -> str:
        return self.word if self.width == WORDS[self.word][0] else f"{self.word}:{self.width}"


@dataclasses.dataclass(frozen=True)
class Arm:
    """The pose of one arm over T steps."""

    position: Float[np.ndarray, "T 3"]  # end effector, m
    quaternion: Float[np.ndarray, "T 4"]  # wxyz, unit; identity where the state has no rotation
    gripper: Float[np.ndarray, "T G"]  # G may be 0


@dataclasses.dataclass(frozen=True)
class Columns:
    """The description of a row of numbers.

    Attributes:
        arms: blocks in the order of the columns, one tuple an arm.

    >>> columns = Columns.parse("position quat_xyzw gripper:2 | joints:6 gripper_01")
    >>> columns.width, str(columns)
    (16, 'position quat_xyzw gripper:2 | joints:6 gripper_01')
    >>> columns.of("gripper")
    [7, 8, 15]
    """

    arms: tuple[tuple[Block, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Columns:
        """Reads the text form. Raises ConfigError: an unknown word, or a block whose width is not said."""
        return cls(tuple(tuple(map(_block, re.split(r"[\s,]+", arm.strip()))) for arm in text.split("|")))

    def __str__(self) -> str:
        return " | ".join(" ".join(map(str, arm)) for arm in self.arms)

    @property
    def width(self) -> int:
        return sum(block.width for arm in self.arms for block in arm)

    @property
    def has_pose(self) -> bool:
        """Whether each arm has a position, so that ρ can be found (M1)."""
        return all(any(block.kind == "position" for block in arm) for arm in self.arms)

    @property
    def has_joints(self) -> bool:
        """Whether each arm has joints, in which ρ can be found where there is no pose."""
        return all(any(block.kind == "joints" for block in arm) for arm in self.arms)

    def times(self, arms: int) -> Columns:
        """The same columns for so many arms."""
        return Columns(self.arms * arms)

    def of(self, kind: str) -> list[int]:
        """The indices of the columns of a kind."""
        return [index for arm in self.by_arm(kind) for index in arm]

    def by_arm(self, kind: str) -> list[list[int]]:
        """The indices of the columns of a kind, or of a word, of each arm."""
        found: list[list[int]] = []
        start = 0
        for arm in self.arms:
            found.append([])
            for block in arm:
                found[-1] += range(start, start + block.width) if kind in (block.kind, block.word) else ()
                start += block.width
        return found

    def split(self, rows: Float[np.ndarray, "T P"]) -> tuple[Arm, ...]:
        """The arms' poses, rotations as quaternions wxyz. Raises EpisodeError: another width, or no position."""
        if rows.shape[1] != self.width or not self.has_pose:
            raise EpisodeError(
                f"the state has {rows.shape[1]} columns, described as '{self}'; ρ is found in the pose of each end "
                "effector, or in the joints of each arm: name arrays that hold one by --state, or by --robot the robot "
                "whose joints these are, or go without ρ (build-dataset --method none, in a training "
                "phases.method=none)"
            )
        arms, start = [], 0
        for blocks in self.arms:
            found: dict[str, list[np.ndarray]] = {"position": [], "gripper": []}
            quaternion = np.tile(np.array([1, 0, 0, 0], np.float32), (len(rows), 1))
            for block in blocks:
                part = rows[:, start : start + block.width]
                start += block.width
                if block.kind == "rotation":
                    quaternion = to_wxyz(part, block.word)
                elif block.kind in found:
                    found[block.kind].append(part)
            gripper = np.concatenate(found["gripper"], 1) if found["gripper"] else rows[:, :0]
            arms.append(Arm(found["position"][0], quaternion, gripper))
        return tuple(arms)


def _block(text: str) -> Block:
    word, _, said = text.partition(":")
    usual = WORDS[choose(word, tuple(WORDS), "columns")][0]
    width = int(said) if said.isdigit() else 0 if said else usual or 0
    if not width or (width != usual and (word == "position" or word in ROTATIONS)):
        raise ConfigError(f"columns {text!r}: {word} has {usual or 'any number; say how many, e.g. ' + word + ':6'}")
    return Block(word, width)


def to_wxyz(rows: Float[np.ndarray, "T R"], word: str) -> Float[np.ndarray, "T 4"]:
    """Rotations in one of the forms `ROTATIONS` as quaternions wxyz; those given as wxyz stay as they are."""
    if word == "quat_wxyz":
        return rows
    if word == "quat_xyzw":
        return np.roll(rows, 1, axis=1)
    from scipy.spatial.transform import Rotation

    rows = np.asarray(rows, np.float64)
    if word == "rotvec":
        rotation = Rotation.from_rotvec(rows)
    elif word == "euler_xyz":
        rotation = Rotation.from_euler("xyz", rows)
    else:
        first = rows[:, :3] / np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
        second = rows[:, 3:] - (first * rows[:, 3:]).sum(1, keepdims=True) * first
        second /= np.linalg.norm(second, axis=1, keepdims=True)
        rotation = Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=2))
    return np.roll(rotation.as_quat(), 1, axis=1).astype(np.float32)


def joined(descriptions: Sequence[Columns]) -> Columns:
    """The description of arrays that stand side by side; all belong to one arm, unless one has several."""
    if all(len(one.arms) == 1 for one in descriptions):
        return Columns((tuple(block for one in descriptions for block in one.arms[0]),))
    return Columns(tuple(arm for one in descriptions for arm in one.arms))


POSE = Columns.parse("position quat_wxyz gripper:2")
"""The state of our own simulators, per arm."""
DELTA = Columns.parse("position rotvec gripper_01")
"""The actions of our own simulators, per arm: movements, and a gripper that +1 closes."""
