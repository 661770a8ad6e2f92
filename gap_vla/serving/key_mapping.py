"""What a policy server calls our observations, in which form it wants them, and how its actions become ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.spatial.transform import Rotation

from gap_vla.core.columns import POSE, Columns
from gap_vla.core.config import STRICT, build, choose
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.core.files import read_json
from gap_vla.demos.arrays import resized

OBSERVATION = {
    "image_primary": "observation/image",
    "image_wrist": "observation/wrist_image",
    "proprio": "observation/state",
    "language_instruction": "prompt",
}
"""Our names of what is observed, and openpi's for LIBERO-like policies."""


@dataclass(frozen=True, config=STRICT)
class KeyMapping:
    """Names on the wire, and what has to be done to the values. The defaults are openpi's.

    An action of ours is `sign * theirs + offset`, column by column. A gripper of 0 (closed) to 1 (open) becomes ours
    of +1 (closes) to -1 (opens) with a sign of -2 and an offset of 1.
    """

    observation: dict[str, str] = dataclasses.field(default_factory=lambda: dict(OBSERVATION))
    """Our key to the server's; keys that are not listed are not sent."""
    actions: str = "actions"
    """Where the answer holds its actions, `[A]` or `[H, A]`."""
    execute: Annotated[int, Field(ge=1)] = 1
    """Actions executed of each answer before the server is asked again."""
    image_size: Annotated[int, Field(ge=1)] | None = None
    """Pictures are resized to this (pixels, square), or sent as they are."""
    rotate_images: bool = False
    """Whether pictures are turned by 180 degrees, as LIBERO's policies are trained."""
    state_columns: str = ""
    """Columns of the state that the server takes, as "position rotvec gripper:2"; empty: as it is."""
    action_columns: tuple[int, ...] | None = None
    """Which of the answer's columns are ours, in our order; all if not given."""
    action_signs: tuple[float, ...] | None = None
    """A factor for each of our columns; all 1 if not given."""
    action_offsets: tuple[float, ...] | None = None
    """What is added to each of our columns after its factor; all 0 if not given."""

    def __post_init__(self) -> None:
        for ours in self.observation:
            choose(ours, list(OBSERVATION), "observation")
        if len({*self.observation.values()}) < len(self.observation):
            raise ConfigError(f"observation: two have one name in {self.observation}")
        if self.state_columns:
            Columns.parse(self.state_columns)

    @classmethod
    def from_file(cls, path: Path) -> KeyMapping:
        """From a JSON file with some of the attributes."""
        try:
            return build(cls, read_json(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_wire(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """One observation (no batch axis) under the server's names, in the server's form."""
        return {
            theirs: self._as_sent(ours, observation[ours])
            for ours, theirs in self.observation.items()
            if ours in observation
        }

    def from_wire(self, answer: Any) -> Float[np.ndarray, "H A"]:
        """The actions of an answer in our order, range and sign. Raises UserError: the answer has no such actions."""
        if not isinstance(answer, Mapping) or self.actions not in answer:
            found = ", ".join(map(str, answer)) if isinstance(answer, Mapping) else type(answer).__name__
            raise UserError(f"the server's answer has no {self.actions!r} (found: {found[:300] or 'none'})")
        actions = np.atleast_2d(np.asarray(answer[self.actions], np.float32))
        if actions.ndim != 2:
            raise UserError(f"the server's {self.actions!r} has the shape {actions.shape}, not [A] or [H, A]")
        if self.action_columns is not None:
            if max(self.action_columns) >= actions.shape[1]:
                raise UserError(f"action_columns asks for column {max(self.action_columns)} of {actions.shape[1]}")
            actions = actions[:, list(self.action_columns)]
        for name, values in (("action_signs", self.action_signs), ("action_offsets", self.action_offsets)):
            if values is not None and len(values) != actions.shape[1]:
                raise UserError(f"{name} has {len(values)} entries for {actions.shape[1]} columns of actions")
        if self.action_signs is not None:
            actions = actions * np.asarray(self.action_signs, np.float32)
        if self.action_offsets is not None:
            actions = actions + np.asarray(self.action_offsets, np.float32)
        return actions

    def _as_sent(self, key: str, value: Any) -> Any:
        if key == "language_instruction":
            return str(value)  # numpy's is none of msgpack
        value = np.asarray(value)
        if key.startswith("image_"):
            if self.image_size:
                value = resized(value[None], (self.image_size, self.image_size))[0]
            return np.ascontiguousarray(value[::-1, ::-1]) if self.rotate_images else value
        return state_as(Columns.parse(self.state_columns), value) if self.state_columns else value


def state_as(columns: Columns, state: Float[np.ndarray, " P"]) -> Float[np.ndarray, " Q"]:
    """A state of ours (`POSE` of each arm) in the columns that somebody else's policy takes.

    >>> state = np.float32([1, 2, 3, 0, 1, 0, 0, 0.04, -0.04])  # the hand points down
    >>> [round(float(number), 2) for number in state_as(Columns.parse("position rotvec gripper:2"), state)]
    [1.0, 2.0, 3.0, 3.14, 0.0, 0.0, 0.04, -0.04]

    Raises UserError: columns that our state does not have, as joints.
    """
    arms = POSE.times(len(state) // POSE.width).split(np.asarray(state)[None])
    if len(columns.arms) > len(arms):
        raise UserError(f"state_columns describes {len(columns.arms)} arms, and the robot has {len(arms)}")
    parts = []
    for blocks, arm in zip(columns.arms, arms):
        for block in blocks:
            if block.kind == "position":
                parts.append(arm.position[0])
            elif block.kind == "rotation":
                parts.append(_rotation_as(block.word, arm.quaternion[0]))
            elif block.word == "gripper" and block.width <= arm.gripper.shape[1]:
                parts.append(arm.gripper[0, : block.width])
            else:
                raise UserError(f"state_columns: our state ({POSE}) has no {block}")
    return np.concatenate(parts).astype(np.float32)


def _rotation_as(word: str, wxyz: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " R"]:
    if word == "quat_wxyz":
        return wxyz
    rotation = Rotation.from_quat(np.roll(wxyz, -1))
    if word == "quat_xyzw":
        return np.roll(wxyz, -1)
    if word == "rotvec":
        return rotation.as_rotvec()
    if word == "euler_xyz":
        return rotation.as_euler("xyz")
    return rotation.as_matrix()[:, :2].T.ravel()
