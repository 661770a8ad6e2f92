"""openpi's messages (msgpack, numpy arrays as small maps), and what a server calls the things in them.

An array is `{b"__ndarray__": True, b"data": bytes (C order), b"dtype": str such as "<f4", b"shape": [ints]}`, a numpy
scalar `{b"__npgeneric__": True, b"data": number, b"dtype": str}`. Nothing that is received is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgpack
import numpy as np
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.spatial.transform import Rotation

from gap_vla.core.columns import POSE, Columns
from gap_vla.core.config import STRICT, build, choose
from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json
from gap_vla.demos.arrays import resized

# ---- messages


def pack(content: Any) -> bytes:
    """Bytes of nested dicts, lists, strings, numbers and arrays.

    >>> unpack(pack({"state": np.arange(3, dtype=np.float32)}))["state"]
    array([0., 1., 2.], dtype=float32)
    """
    return msgpack.packb(content, default=_encode)


def unpack(message: bytes | str) -> Any:
    """The content of a message; arrays are read-only views of it. Raises ValueError: it is none of this format."""
    try:
        return msgpack.unpackb(message, object_hook=_decode)
    except (TypeError, KeyError, ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"no message of openpi's protocol ({type(error).__name__}: {error})") from error


def _encode(value: Any) -> Any:
    array = np.asarray(value)
    name = _plain(array.dtype).str
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": name}
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": name, b"shape": array.shape}


def _decode(found: dict) -> Any:
    if b"__ndarray__" in found:
        return np.ndarray(found[b"shape"], _plain(np.dtype(found[b"dtype"])), found[b"data"])
    if b"__npgeneric__" in found:
        return _plain(np.dtype(found[b"dtype"])).type(found[b"data"])
    return found


def _plain(dtype: np.dtype) -> np.dtype:
    """Booleans, numbers and fixed-width strings travel; objects (which are addresses) and structures do not."""
    if dtype.kind not in "biufSU":
        raise ValueError(f"arrays of {dtype} do not travel")
    return dtype


# ---- names and forms

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
        if self.state_columns:
            Columns.parse(self.state_columns)

    def to_wire(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """One observation (no batch axis) under the server's names, in the server's form."""
        shown = {ours: theirs for ours, theirs in self.observation.items() if ours in observation}
        return {theirs: self._as_sent(ours, observation[ours]) for ours, theirs in shown.items()}

    def from_wire(self, answer: Any) -> Float[np.ndarray, "H A"]:
        """The actions of an answer in our order, range and sign.

        Raises UserError: there are none. ValueError or IndexError: they have other columns than this mapping.
        """
        found = answer.get(self.actions) if isinstance(answer, Mapping) else None
        actions = np.atleast_2d(np.asarray([] if found is None else found, np.float32))
        if actions.ndim != 2 or not actions.size:
            has = ", ".join(map(str, answer)) if isinstance(answer, Mapping) else type(answer).__name__
            raise UserError(f"the answer ({has[:300]}) has no {self.actions!r} of the shape [A] or [H, A]")
        if self.action_columns is not None:
            actions = actions[:, list(self.action_columns)]
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


def read_keys(path: Path | None) -> KeyMapping:
    """A JSON file with some of `KeyMapping`'s attributes; None: openpi's names."""
    return build(KeyMapping, read_json(path)) if path else KeyMapping()


def state_as(columns: Columns, state: Float[np.ndarray, " P"]) -> Float[np.ndarray, " Q"]:
    """A state of ours (`POSE` of each arm) in the columns that somebody else's policy takes.

    >>> state = np.float32([1, 2, 3, 0, 1, 0, 0, 0.04, -0.04])  # the hand points down
    >>> [round(float(number), 2) for number in state_as(Columns.parse("position rotvec gripper:2"), state)]
    [1.0, 2.0, 3.0, 3.14, 0.0, 0.0, 0.04, -0.04]

    Raises UserError: columns that our state does not have, as joints.
    """
    ours = POSE.times(len(state) // POSE.width)
    arms = ours.split(np.asarray(state)[None])
    parts: list[np.ndarray] = []
    for number, block in [(number, block) for number, blocks in enumerate(columns.arms) for block in blocks]:
        of_gripper = block.word == "gripper" and block.width <= 2
        if number >= len(arms) or not (of_gripper or block.kind in ("position", "rotation")):
            raise UserError(f"state_columns is '{columns}', and our state has '{ours}' alone")
        arm = arms[number]
        if block.kind == "rotation":
            parts.append(_rotation_as(block.word, arm.quaternion[0]))
        else:
            parts.append((arm.gripper if of_gripper else arm.position)[0, : block.width])
    return np.concatenate(parts).astype(np.float32)


def _rotation_as(word: str, wxyz: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " R"]:
    if word.startswith("quat_"):
        return np.roll(wxyz, -1) if word == "quat_xyzw" else wxyz
    rotation = Rotation.from_quat(np.roll(wxyz, -1))
    if word == "rotvec":
        return rotation.as_rotvec()
    return rotation.as_euler("xyz") if word == "euler_xyz" else rotation.as_matrix()[:, :2].T.ravel()
