"""M1 and M2: what moves in a recording, and in which direction."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from pydantic import Field

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError

UNIT_QUATERNION_TOLERANCE = 1e-2
"""Stored quaternions may be this far from unit length (float16 files are); they are normalised. More is an error."""

FEW_STATES = 8
"""A recording of fewer different states says nothing about how often each was logged."""

Amount = Annotated[float | int, Field(ge=0)]


class DeadBand(NamedTuple):
    """Below these lengths a step, or a whole segment, does not move and has no direction (M2)."""

    position: Amount  # m
    rotation: Amount  # rad
    gripper: Amount  # units of the gripper columns
    extra: Amount = 0.0  # units of the extra columns, Euclidean norm over all of them

    def over(self, samples: int) -> DeadBand:
        """That of a step between neighbours, where this is of the motion over so many; π: nothing moves."""
        rotation = self.rotation if self.rotation >= math.pi else self.rotation / samples
        return DeadBand(self.position / samples, rotation, self.gripper / samples, self.extra / samples)


@dataclasses.dataclass(frozen=True)
class Motion:
    """The moving signals of one recording of `T` samples, float64.

    Attributes:
        position: f64[T, 3 * arms], end effector positions, m, any fixed frame; or joint positions, see `joints`.
        quaternion: f64[T, 4 * arms], unit, wxyz, or None.
        gripper: f64[T, G], finger positions or openings; G is a multiple of the number of arms; or None.
        extra: f64[T, E], further joints or hand channels, or None.
        where: how errors call the recording, such as "demo.hdf5, episode 3".
        joints: 0, or the number of joints of each arm: `position` is then f64[T, joints * arms], rad, degrees or
            percent, and there is no quaternion.
    """

    position: np.ndarray
    quaternion: np.ndarray | None = None
    gripper: np.ndarray | None = None
    extra: np.ndarray | None = None
    where: str = "recording"
    joints: int = 0

    def __len__(self) -> int:
        return len(self.position)

    @property
    def arms(self) -> int:
        return self.position.shape[1] // self.width

    @property
    def width(self) -> int:
        """Columns of `position` for each arm."""
        return self.joints or 3

    @property
    def samples(self) -> np.ndarray:
        """f64[T, …]: position, quaternion, then gripper and extra, the columns that `lstm.all_features` reads."""
        parts = [self.position, self.quaternion, self.gripper, self.extra]
        return np.ascontiguousarray(np.concatenate([part for part in parts if part is not None], axis=1))

    def at(self, rows: np.ndarray) -> Motion:
        """These samples of it."""
        parts = {name: getattr(self, name) for name in ("position", "quaternion", "gripper", "extra")}
        chosen: dict[str, Any] = {name: None if part is None else part[rows] for name, part in parts.items()}
        return dataclasses.replace(self, **chosen)

    @property
    def columns(self) -> dict[str, int]:
        """How many there are of what."""
        others = sum(0 if part is None else part.shape[1] for part in (self.gripper, self.extra))
        joints = {"joints": self.joints} if self.joints else {}
        return {"arms": self.arms, "rotations": int(self.quaternion is not None), "others": others, **joints}

    @classmethod
    def of(
        cls,
        position: np.ndarray,
        quaternion: np.ndarray | None = None,
        gripper: np.ndarray | None = None,
        extra: np.ndarray | None = None,
        *,
        where: str = "recording",
        joints: int = 0,
    ) -> Motion:
        """Checks widths, lengths, finiteness and unit quaternions once.

        Args:
            position: T×3 for one arm, T×3A for A arms side by side, in m; with `joints` T×(joints · A), any unit.
            quaternion: T×4 (T×4A), wxyz.
            gripper: T×G or T, G columns divided evenly among the arms; None or no columns: there is none.
            extra: T×E or T, any other columns whose direction of motion counts.
            where: name of the recording for error messages.
            joints: how many joints each arm has, if `position` holds joint positions.

        Raises:
            EpisodeError: naming the recording, the field and the step.

        >>> Motion.of(np.zeros((5, 3)), gripper=np.zeros(5)).gripper.shape
        (5, 1)
        """
        given = {"position": position, "quaternion": quaternion, "gripper": gripper, "extra": extra}
        fields = {name: _columns(value, name, where) for name, value in given.items() if value is not None}
        fields = {name: value for name, value in fields.items() if value.shape[1] or name == "position"}
        steps, width = fields["position"].shape
        arms = width // (joints or 3)
        if not width or width % (joints or 3):
            each = f"{joints} joints" if joints else "3 columns (m)"
            raise EpisodeError(f"{where}: position is {width} wide; give {each} per arm")
        for name, value in fields.items():
            if len(value) != steps:
                raise EpisodeError(f"{where}: {name} has {len(value)} steps, position {steps}")
            if not (finite := np.isfinite(value)).all():
                step, column = np.argwhere(~finite)[0]
                raise EpisodeError(f"{where}: {name} is {value[step, column]} at step {step}, column {column}")
        if "quaternion" in fields:
            if (found := fields["quaternion"].shape[1]) != 4 * arms:
                raise EpisodeError(f"{where}: quaternion is {found} wide, not {4 * arms} (wxyz for each arm)")
            fields["quaternion"] = _normalised(fields["quaternion"], where)
        if "gripper" in fields and (found := fields["gripper"].shape[1]) % arms:
            raise EpisodeError(f"{where}: gripper is {found} wide, which does not divide among {arms} arms")
        return cls(**fields, where=where, joints=joints)


def _columns(value: Any, name: str, where: str) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim == 1 and name != "position":
        array = array[:, None]
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise EpisodeError(f"{where}: {name} is {array.dtype}{[*array.shape]}, not numbers of shape (T, width)")
    return np.ascontiguousarray(array, dtype=np.float64)


def _normalised(quaternion: np.ndarray, where: str) -> np.ndarray:
    blocks = quaternion.reshape(len(quaternion), quaternion.shape[1] // 4, 4)
    norms = np.linalg.norm(blocks, axis=2)
    off = np.abs(norms - 1) > UNIT_QUATERNION_TOLERANCE
    if off.any():
        step, arm = np.argwhere(off)[0]
        raise EpisodeError(
            f"{where}: quaternion of arm {arm} has length {norms[step, arm]:.4g} at step {step}, not 1; are these "
            "rotations of another kind (rotvec, euler_xyz, …)?"
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
    """The proprioception of an episode as a checked `Motion`, of any number of arms: poses, and where there are none,
    joints.

    Args:
        extra: T×E further columns.

    Raises:
        EpisodeError: nobody described the columns, or they hold neither a position nor joints.
    """
    if episode.moves_by_joints:
        assert episode.columns is not None
        joints, fingers = (
            [episode.proprio[:, own] for own in episode.columns.by_arm(kind)] for kind in ("joints", "gripper")
        )
        most = max(own.shape[1] for own in joints)
        return Motion.of(_side_by_side(joints), None, _side_by_side(fingers), extra, where=episode.name, joints=most)
    arms = episode.arms
    return Motion.of(
        np.concatenate([arm.position for arm in arms], axis=1),
        np.concatenate([arm.quaternion for arm in arms], axis=1),
        _side_by_side([arm.gripper for arm in arms]),
        extra,
        where=episode.name,
    )


def _side_by_side(arms: list[np.ndarray]) -> np.ndarray:
    """The columns of all arms; zeros make up for what an arm has less than another."""
    most = max(columns.shape[1] for columns in arms)
    return np.concatenate([np.pad(columns, ((0, 0), (0, most - columns.shape[1]))) for columns in arms], axis=1)


def distinct_rows(motion: Motion) -> Int64[np.ndarray, " R"]:
    """The samples to look at, ascending: all of them, but where most states were logged several times, as of a slow
    robot in a fast log, one for each time; a pause keeps its duration.

    >>> held = np.repeat(np.arange(10.0), 3)[:, None] * [[1, 0, 0]]
    >>> distinct_rows(Motion.of(held)).tolist()
    [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    """
    samples = motion.samples
    starts = np.flatnonzero((samples[1:] != samples[:-1]).any(axis=1)) + 1
    starts = np.concatenate([[0], starts])
    runs = np.diff(np.append(starts, len(samples)))
    usual = float(np.median(runs))
    if len(runs) < FEW_STATES or usual < 2:
        return np.arange(len(samples))
    usual = float(runs[runs <= 2 * usual].mean())
    kept = [start + (np.arange(max(round(n / usual), 1)) * usual).astype(np.int64) for start, n in zip(starts, runs)]
    return np.concatenate(kept)


class Steps(NamedTuple):
    """Raw steps between neighbouring samples; N = T - 1."""

    position: np.ndarray  # f64[N, arms, 3], m, or f64[N, arms, joints]
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
        np.diff(motion.position, axis=0).reshape(n, motion.arms, motion.width),
        rotation,
        None if motion.gripper is None else np.diff(motion.gripper, axis=0),
        None if motion.extra is None else np.diff(motion.extra, axis=0)[:, None, :],
    )


def flat_rows(rows: np.ndarray) -> np.ndarray:
    """N×… as N×(product of the rest)."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


class UnitSteps(NamedTuple):
    """Directions of the steps; zero where a step is within the dead-band."""

    vectors: np.ndarray  # f64[N, V]: position, arm by arm, then extra
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
