"""M1 and M2: what moves in a recording, and in which direction."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError

UNIT_QUATERNION_TOLERANCE = 1e-2
"""Stored quaternions may be this far from unit length (float16 files are); they are normalised. More is an error."""
_LARGEST = 1e18
"""Numbers of any motion; differences of these, and their squares, are finite in float32."""


class MotionError(UserError, ValueError):
    """A recording that cannot be used; the message says where, what was found and what to do."""


class DeadBand(NamedTuple):
    """Below these lengths a step, or a whole segment, does not move and has no direction (M2)."""

    position: float | int  # m
    rotation: float | int  # rad
    gripper: float | int  # units of the gripper column
    extra: float | int = 0.0  # units of the extra columns, Euclidean norm over all of them


def is_amount(value: Any) -> bool:
    """Whether this is a number, finite and not negative; a truth value is none."""
    number: Any = value
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and bool(0 <= number < np.inf)


@dataclasses.dataclass(frozen=True)
class Motion:
    """The moving signals of one recording of `T` samples, float64, checked.

    Attributes:
        position: f64[T, 3 * arms], end effector positions, m, any fixed frame.
        quaternion: f64[T, 4 * arms], unit, wxyz, or None.
        gripper: f64[T, G], finger positions or openings; G is a multiple of the number of arms; or None.
        extra: f64[T, E], further joints or hand channels, or None.
        where: how errors call the recording, such as "demo.hdf5, episode 3".
    """

    position: np.ndarray
    quaternion: np.ndarray | None = None
    gripper: np.ndarray | None = None
    extra: np.ndarray | None = None
    where: str = "recording"

    def __len__(self) -> int:
        return len(self.position)

    @property
    def arms(self) -> int:
        return self.position.shape[1] // 3

    @property
    def samples(self) -> np.ndarray:
        """f64[T, …]: position, quaternion, then gripper and extra, the columns that `lstm.all_features` reads."""
        parts = [self.position, self.quaternion, self.gripper, self.extra]
        return np.ascontiguousarray(np.concatenate([part for part in parts if part is not None], axis=1))

    @property
    def columns(self) -> dict[str, int]:
        """How many there are of what."""
        others = sum(0 if part is None else part.shape[1] for part in (self.gripper, self.extra))
        return {"arms": self.arms, "rotations": int(self.quaternion is not None), "others": others}

    @classmethod
    def of(
        cls,
        position: np.ndarray,
        quaternion: np.ndarray | None = None,
        gripper: np.ndarray | None = None,
        extra: np.ndarray | None = None,
        *,
        where: str = "recording",
    ) -> Motion:
        """Checks widths, lengths, finiteness and unit quaternions once.

        Args:
            position: T×3 for one arm, T×3A for A arms side by side, in m.
            quaternion: T×4 (T×4A), wxyz.
            gripper: T×G or T, G columns divided evenly among the arms.
            extra: T×E or T, any other columns whose direction of motion counts.
            where: name of the recording for error messages.

        Raises:
            MotionError: naming the recording, the field, the step, and what to do.

        >>> Motion.of(np.zeros((5, 3)), gripper=np.zeros(5)).gripper.shape
        (5, 1)
        """
        given = {"position": position, "quaternion": quaternion, "gripper": gripper, "extra": extra}
        fields = {name: _as_columns(value, name, where) for name, value in given.items() if value is not None}
        if "position" not in fields:
            raise MotionError(f"{where}: position is missing; T×3 in m is the least that can be segmented")
        pos = fields["position"]
        if pos.shape[1] == 0 or pos.shape[1] % 3:
            raise MotionError(f"{where}: position is {pos.shape[1]} wide; give 3 columns (m) per arm")
        arms = pos.shape[1] // 3
        for name, value in fields.items():
            if len(value) != len(pos):
                raise MotionError(f"{where}: {name} has {len(value)} steps, position {len(pos)}; they must be equal")
            if (bad := ~(np.abs(value) <= _LARGEST)).any():
                step, column = (int(i) for i in np.argwhere(bad)[0])
                raise MotionError(
                    f"{where}: {name} is {value[step, column]} at step {step}, column {column}; "
                    "repair the value or drop the episode"
                )
        quat, grip = fields.get("quaternion"), fields.get("gripper")
        if quat is not None:
            if quat.shape[1] != 4 * arms:
                raise MotionError(
                    f"{where}: quaternion is {quat.shape[1]} wide, not {4 * arms} (wxyz for each of {arms} arms)"
                )
            fields["quaternion"] = _normalised(quat, where)
        if grip is not None and (grip.shape[1] == 0 or grip.shape[1] % arms):
            raise MotionError(f"{where}: gripper is {grip.shape[1]} wide, which does not divide among {arms} arms")
        return cls(**fields, where=where)


def require_columns(motion: Motion, fitted: Mapping[str, int]) -> None:
    """Raises MotionError for other columns than those (`Motion.columns`) that an annotator was fitted on."""
    found, own = (
        f"{c['arms']} arms, rotations {c['rotations']}, others {c['others']}" for c in (motion.columns, fitted)
    )
    if found != own:
        advice = "fit another one, or give data of the same robot, with the same extra columns"
        raise MotionError(f"{motion.where} has {found}; the annotator was fitted on {own}: {advice}")


def _as_columns(value: Any, name: str, where: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or np.ma.is_masked(value):
        what = "masked in places" if np.ma.is_masked(value) else array.dtype
        raise MotionError(f"{where}: {name} is {what}, not numbers")
    if array.ndim == 1 and name != "position":
        array = array[:, None]
    if array.ndim != 2:
        raise MotionError(f"{where}: {name} has shape {array.shape}, not (T, width)")
    return np.ascontiguousarray(array, dtype=np.float64)


def _normalised(quaternion: np.ndarray, where: str) -> np.ndarray:
    blocks = quaternion.reshape(len(quaternion), quaternion.shape[1] // 4, 4)
    norms = np.linalg.norm(blocks, axis=2)
    off = np.abs(norms - 1) > UNIT_QUATERNION_TOLERANCE
    if off.any():
        step, arm = (int(i) for i in np.argwhere(off)[0])
        raise MotionError(
            f"{where}: quaternion of arm {arm} has length {norms[step, arm]:.4g} at step {step}, not 1; expected wxyz "
            "unit quaternions (for rotation vectors or Euler angles convert first; without orientation leave it out)"
        )
    return (blocks / norms[..., None]).reshape(quaternion.shape)


def quaternion_product(a: Float[np.ndarray, "*#n 4"], b: Float[np.ndarray, "*#n 4"]) -> Float[np.ndarray, "*m 4"]:
    """Hamilton product of quaternions wxyz: first b, then a."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    scalar = aw * bw - (av * bv).sum(-1, keepdims=True)
    return np.concatenate([scalar, aw * bv + bw * av + np.cross(av, bv)], axis=-1)


def relative_rotation_vector(
    first: Float[np.ndarray, "*#n 4"], second: Float[np.ndarray, "*#n 4"]
) -> Float[np.ndarray, "*m 3"]:
    """θ = log(R_second R_firstᵀ) of M1: rotation vector in the fixed frame, rad, length in [0, π].

    Args:
        first, second: unit quaternions wxyz; the sign of either does not matter.
    """
    turn = quaternion_product(second, first * [1, -1, -1, -1])
    w, v = turn[..., :1], turn[..., 1:]
    v = np.where(w < 0, -v, v)
    sine = np.linalg.norm(v, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, np.abs(w))
    return v * np.where(sine > 0, angle / np.where(sine > 0, sine, 1), 0)


def motion_of(episode: Episode, extra: np.ndarray | None = None) -> Motion:
    """The proprioception of an episode as a checked `Motion`; 1 to any number of arms; `extra`: T×E further columns."""
    arms = episode.arms
    return Motion.of(
        np.ma.concatenate([arm.position for arm in arms], axis=1),  # which keeps a mask, to be refused
        np.ma.concatenate([arm.quaternion for arm in arms], axis=1),
        np.ma.concatenate([arm.gripper for arm in arms], axis=1),
        extra,
        where=episode.name,
    )


def farthest(motion: Motion) -> float:
    """How far from the origin an end effector comes, m; 0 in an empty recording."""
    return float(np.linalg.norm(motion.position.reshape(-1, 3), axis=1).max(initial=0))


class Steps(NamedTuple):
    """Raw steps between neighbouring samples; N = T - 1."""

    position: np.ndarray  # f64[N, arms, 3], m
    rotation: np.ndarray | None  # f64[N, arms, 3], rad
    gripper: np.ndarray | None  # f64[N, G]
    extra: np.ndarray | None  # f64[N, 1, E]


def steps_of(motion: Motion) -> Steps:
    """m_{i:i+1} of M1 for all i."""
    n = max(len(motion) - 1, 0)
    rotation = None
    if motion.quaternion is not None:
        q = motion.quaternion.reshape(len(motion), motion.arms, 4)
        rotation = relative_rotation_vector(q[:-1], q[1:]) if n else np.zeros((0, motion.arms, 3))
    return Steps(
        np.diff(motion.position, axis=0).reshape(n, motion.arms, 3),
        rotation,
        None if motion.gripper is None else np.diff(motion.gripper, axis=0),
        None if motion.extra is None else np.diff(motion.extra, axis=0)[:, None, :],
    )


def flat_rows(rows: np.ndarray) -> np.ndarray:
    """N×… as N×(product of the rest)."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


class UnitSteps(NamedTuple):
    """Directions of the steps; zero where a step is within the dead-band."""

    vectors: np.ndarray  # f64[N, V]: position (3 per arm), then extra
    rotation: np.ndarray  # f64[N, 3 * arms], or N×0
    sign: np.ndarray  # int8[N, G]


def directions(vectors: Float[np.ndarray, "*n d"], dead_band: float | int) -> Float[np.ndarray, "*n d"]:
    """Unit vectors, or zero where the length does not exceed the dead-band."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    moving = lengths > dead_band
    return np.where(moving, vectors / np.where(moving, lengths, 1), 0)


def unit_steps(motion: Motion, dead_band: DeadBand) -> UnitSteps:
    """The second argument of every cosine and sign in M2, for all steps."""
    steps = steps_of(motion)
    n = len(steps.position)
    blocks = [flat_rows(directions(steps.position, dead_band.position))]
    if steps.extra is not None:
        blocks.append(flat_rows(directions(steps.extra, dead_band.extra)))
    rotation = np.zeros((n, 0))
    if steps.rotation is not None:
        rotation = flat_rows(directions(steps.rotation, dead_band.rotation))
    gripper = np.zeros((n, 0)) if steps.gripper is None else steps.gripper
    sign = (np.sign(gripper) * (np.abs(gripper) > dead_band.gripper)).astype(np.int8)
    return UnitSteps(np.concatenate(blocks, axis=1), rotation, sign)
