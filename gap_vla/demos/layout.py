"""Which columns of somebody's state are position, rotation and gripper, and how to get an Episode's from them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from gap_vla.core.episode import OPENING_UNIT, PROPRIO_PER_ARM, EpisodeError, require_measured
from gap_vla.core.foreign import one_line
from gap_vla.core.typed_config import choose
from gap_vla.phases.motion import quaternion_product

Rotation = Literal["quat_wxyz", "quat_xyzw", "euler_xyz", "rotvec", "none"]
ROTATIONS: dict[str, int] = {"quat_wxyz": 4, "quat_xyzw": 4, "euler_xyz": 3, "rotvec": 3, "none": 0}
"""Rotation representations and their widths. `euler_xyz` is roll, pitch, yaw about the fixed axes x, y, z (rad)."""


_UNIT = re.compile(r"[^a-z](mm|cm|m|deg|degrees?|rad)\W*$", re.IGNORECASE)
_KINDS = {
    "joint": re.compile(
        r"force|torque|(?:^|[^a-z])(?:(?:lin|ang)?(?:ear|ular)?_?vel|v[xyz]$)"
        r"|^(?!.*(?:pose|eef|tcp|cartes)).*(?:joint|waist|shoulder|elbow|(?:^|[^a-z])[jq]_?\d)"
    ),
    "q": re.compile(r"(?:^|[^a-z])(?:q(?:uat(?:ernion)?)?|ori(?:entation)?|rot(?:ation)?)[_. -]?([wxyz])(?![a-z])"),
    "r": re.compile(r"(?:^|[^a-z])(?:[a-z]?(roll|pitch|yaw)(?![a-z])|r([xyz])$)"),
    "": re.compile(r"(?:^|[^a-z0-9])(?:delta|[a-z])?([xyz])$"),
    "gripper": re.compile("grip|finger|jaw"),
}
"""What columns are by their names, in the order in which it is asked: joints, velocities and forces; a part of a
quaternion, such as qw; a turn, such as rx or roll; an axis; a hand. `motor_0` is what LeRobot calls columns without a
name."""
_TURNS = {"roll": "x", "pitch": "y", "yaw": "z"}
MOST_TURNED = 25.0
"""rad: no Euler angle or rotation vector is measured beyond four turns; in degrees they are."""


@dataclasses.dataclass(frozen=True)
class StateLayout:
    """Columns of a state vector, the same for each arm."""

    position: int = 0  # first column of xyz (m)
    rotation: int = 3  # first column of the rotation
    rotation_kind: Rotation = "quat_wxyz"
    gripper: tuple[int, ...] = (7, 8)  # one opening, or two finger positions
    width: int = PROPRIO_PER_ARM  # columns per arm; the state has as many times the number of arms
    opening_unit: Literal["m", "1"] | None = None
    """Of the gripper's columns: "m", or "1" for a number without unit (0 closed, 1 open). None: two fingers are in m,
    one opening is a number."""

    def __post_init__(self) -> None:
        if not isinstance(self.gripper, (tuple, list)):
            raise EpisodeError(f"layout: gripper is {self.gripper!r}; give a list of one or two columns")
        object.__setattr__(self, "gripper", tuple(self.gripper))
        choose(self.rotation_kind, list(ROTATIONS), "rotation", EpisodeError)
        if len(self.gripper) not in (1, 2):
            raise EpisodeError(f"gripper columns {self.gripper}: name one opening or two finger positions")
        if self.opening_unit not in ("m", "1", None):
            raise EpisodeError(f'opening_unit is "m" or "1" (a number without unit), not {self.opening_unit!r}')
        if self.opening_unit is None:
            object.__setattr__(self, "opening_unit", "m" if len(self.gripper) == 2 else "1")
        for column in (self.position, self.rotation, *self.gripper, self.width):
            if type(column) is not int or column < 0:
                raise EpisodeError(f"layout: column {column!r} is no whole number of 0 or more")
        turn = range(self.rotation, self.rotation + ROTATIONS[self.rotation_kind])
        columns = [*range(self.position, self.position + 3), *turn, *self.gripper]
        if twice := [column for column in columns if columns.count(column) > 1]:
            raise EpisodeError(f"layout: column {twice[0]} is two of position, rotation and gripper; name each once")
        if (last := max(columns)) >= self.width:
            raise EpisodeError(f"column {last} is outside of an arm's {self.width} columns")

    @classmethod
    def of(cls, layout: str | Mapping[str, Any] | StateLayout) -> StateLayout:
        """A named layout (`LAYOUTS`), a dictionary of this class's attributes, or the layout itself.

        Raises EpisodeError: unknown name or attribute, or columns that do not fit together.
        """
        if isinstance(layout, StateLayout):
            return layout
        if isinstance(layout, str):
            if layout not in LAYOUTS:
                raise EpisodeError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}, or JSON of its columns")
            return LAYOUTS[layout]
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(layout, Mapping) or not layout or set(layout) - set(known):
            raise EpisodeError(f"layout {layout!r}: give a name ({', '.join(LAYOUTS)}), or JSON of {', '.join(known)}")
        return cls(**layout)

    @property
    def columns(self) -> tuple[Any, ...]:
        """Which columns are what, whatever the unit of the gripper's."""
        return self.position, self.rotation, self.rotation_kind, self.gripper, self.width

    def __str__(self) -> str:
        unit = "in m" if self.opening_unit == "m" else "of no unit"
        rad = " in rad" if ROTATIONS[self.rotation_kind] == 3 else ""
        turned = (
            "no rotation" if self.rotation_kind == "none" else f"{self.rotation_kind}{rad} from column {self.rotation}"
        )
        opening = " ".join(map(str, self.gripper))
        return f"xyz in m from column {self.position}, {turned}, gripper {opening} {unit}"

    @property
    def facts(self) -> dict[str, str]:
        """What an episode's metadata must say of its proprioception, because its numbers do not."""
        return {} if self.opening_unit in ("m", None) else {OPENING_UNIT: self.opening_unit}

    def require_names(self, names: Sequence[str], where: str) -> None:
        """Compares columns with what they are called, or the arrays that they are of, where that tells.

        Raises EpisodeError: a column is taken for something else than its name says, such as another axis, a finger or
        a joint; or it is in mm, cm or degrees.
        """
        if wrong := self._misnamed(names):
            taken = one_line(", ".join(f"{names[place]} is read as {what}" for place, what in wrong), 160)
            fits = [name for name, one in LAYOUTS.items() if not len(names) % one.width and not one._misnamed(names)]
            advice = f"by their names, layout={fits[0]} fits" if fits else "give columns in this order, or their layout"
            raise EpisodeError(f"{where}: {taken}; {advice}")

    def _misnamed(self, names: Sequence[str]) -> list[tuple[int, str]]:
        turn = "wxyz" if self.rotation_kind == "quat_wxyz" else "xyzw" if self.rotation_kind == "quat_xyzw" else "xyz"
        taken = dict.fromkeys(self.gripper, "gripper") | {self.position + i: axis for i, axis in enumerate("xyz")}
        for i, axis in enumerate(turn[: ROTATIONS[self.rotation_kind]]):
            taken[self.rotation + i] = f"q{axis}" if len(turn) == 4 else f"r{axis}"
        found = []
        for place, (kind, unit) in enumerate(zip(kinds_of(names), map(_UNIT.search, names))):
            what = taken.get(place % self.width, "")
            same = kind in ("", what) or (what[:1] == "r" and kind == what[1]) or (what, kind) == ("gripper", "joint")
            if what and not (same and (what == "gripper" or not unit or unit[1].lower() in ("m", "rad"))):
                found.append((place, what))
        return found

    def to_proprio(
        self, state: Float[np.ndarray, "T S"], where: str = "state", *, check: bool = True
    ) -> Float[np.ndarray, "T P"]:
        """Per arm xyz (m), quaternion wxyz, two gripper columns (a single opening is repeated).

        Raises EpisodeError: the state's width is not a multiple of `width`; or, if `check`, an angle is none that a
        robot measures (`gap_vla.core.episode.require_measured`), which a quaternion of it would not show.
        """
        if state.ndim != 2 or not state.shape[1] or state.shape[1] % self.width or state.dtype.kind not in "fiu":
            raise EpisodeError(
                f"{where}: the state has shape {state.shape}, the layout has {self.width} columns of numbers per arm; "
                "name the columns (position, rotation, rotation_kind, gripper, width)"
            )
        arms = []
        for arm in np.split(state.astype(np.float64), state.shape[1] // self.width, axis=1):
            turn = arm[:, self.rotation : self.rotation + ROTATIONS[self.rotation_kind]]
            if check and self.rotation_kind in ("euler_xyz", "rotvec"):
                require_measured(turn, f"{where}: the state's {self.rotation_kind}, from column {self.rotation} on,")
                if (most := np.abs(turn).max(initial=0)) > MOST_TURNED:
                    raise EpisodeError(
                        f"{where}: the state's {self.rotation_kind} reaches {most:g}; give radians: are these degrees?"
                    )
            grip = arm[:, list(self.gripper)]
            grip = np.repeat(grip, 2, axis=1) if grip.shape[1] == 1 else grip
            position = arm[:, self.position : self.position + 3]
            arms.append(np.concatenate([position, to_quaternion(turn, self.rotation_kind), grip], axis=1))
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate(arms, axis=1).astype(np.float32)


def kinds_of(names: Sequence[str]) -> list[str]:
    """What columns are by their names (`_KINDS`), empty where they do not tell. Without a `w` among them there is no
    quaternion, and `rot_x` is a turn."""
    kinds = []
    for name in names:
        plain = _UNIT.sub("", name).lower()
        kind, found = next(((kind, found) for kind, one in _KINDS.items() if (found := one.search(plain))), ("", None))
        axis = next(filter(None, found.groups()), "") if found else ""
        kinds.append(kind + _TURNS.get(axis, axis))
    return kinds if "qw" in kinds else [kind.replace("q", "r") for kind in kinds]


def require_action_names(names: Sequence[str], where: str) -> None:
    """Actions of 7 an arm are xyz, rotation, gripper; the last is not normalised, and what is read of it is read there.

    Raises EpisodeError: they are in another order by their names, which joints, and more fingers than arms, have not.
    """
    kinds = kinds_of(names)
    several = 7 * kinds.count("gripper") != len(names)
    if not len(names) % 7:
        joints = ("joint", "gripper") if several else ("joint",)
        LAYOUTS["bridge"].require_names(["" if k in joints else n for k, n in zip(kinds, names)], where)


LAYOUTS: dict[str, StateLayout] = {
    "gap": StateLayout(),
    "robomimic": StateLayout(rotation_kind="quat_xyzw"),
    "bridge": StateLayout(rotation_kind="euler_xyz", gripper=(6,), width=7),
    "bridge_padded": StateLayout(rotation_kind="euler_xyz", gripper=(7,), width=8),
    "quaternion_wxyz": StateLayout(gripper=(7,), width=8),
    "quaternion_xyzw": StateLayout(rotation_kind="quat_xyzw", gripper=(7,), width=8),
    "libero": StateLayout(rotation_kind="rotvec", gripper=(6, 7), width=8),
}
"""Layouts of public data; `bridge`: xyz, roll pitch yaw, opening; `libero`: xyz, rotation vector, two fingers."""


def to_quaternion(turn: Float[np.ndarray, "T R"], kind: str) -> Float[np.ndarray, "T 4"]:
    """Unit quaternions wxyz of a rotation in another representation; `none` gives the identity."""
    if kind == "quat_wxyz":
        return turn
    if kind == "quat_xyzw":
        return np.roll(turn, 1, axis=1)
    if kind == "none":
        return np.tile([1.0, 0, 0, 0], (len(turn), 1))
    if kind == "rotvec":
        return _from_rotvec(turn)
    axes = np.eye(3)
    x, y, z = (_from_rotvec(turn[:, i : i + 1] * axes[i]) for i in range(3))
    return quaternion_product(z, quaternion_product(y, x))


def _from_rotvec(vector: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(vector, axis=1, keepdims=True)
    scale = np.where(angle > 1e-12, np.sin(angle / 2) / np.maximum(angle, 1e-12), 0.5)
    return np.concatenate([np.cos(angle / 2), vector * scale], axis=1)
