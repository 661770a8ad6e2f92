"""Which columns of somebody's state are position, rotation and gripper, and how to get an Episode's from them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from gap_vla.core.episode import OPENING_UNIT, PROPRIO_PER_ARM, EpisodeError, require_measured
from gap_vla.core.foreign import one_line
from gap_vla.core.typed_config import choose
from gap_vla.demos.column_names import (
    ANGLE,
    AXIS,
    FINGER,
    LETTERS,
    QUATERNION,
    QUATERNION_R,
    ROTVEC,
    is_another_turn,
    is_no_opening,
    is_no_position,
    is_no_turn,
    misordered,
)
from gap_vla.phases.motion import UNIT_QUATERNION_TOLERANCE, quaternion_product

Rotation = Literal["quat_wxyz", "quat_xyzw", "euler_xyz", "rotvec", "none"]
ROTATIONS: dict[str, int] = {"quat_wxyz": 4, "quat_xyzw": 4, "euler_xyz": 3, "rotvec": 3, "none": 0}
"""Rotation representations and their widths. `euler_xyz` is roll, pitch, yaw about the fixed axes x, y, z (rad)."""

MOST_TURNED = 25.0
"""rad: no Euler angle or rotation vector is measured beyond four turns; in degrees they are."""
UNITS = ("unit", "units")
"""What people call the place where they say a unit, in small letters."""
METRES = ("m", "meter", "meters", "metre", "metres", "si", "units")
"""Words in which a unit of positions says metres, in small letters; `SI units` is two of them."""
UNIT = re.compile(
    r"(?:^|[^a-z])(?:[cmkuµμ]m|(?:milli|centi|deci|kilo|micro)met(?:er|re)s?|microns?|inch(?:es)?|deg(?:rees?)?)(?![a-z])"
    r"|[xyz][_. -](?:in|ft|feet)$|[\[(](?:in|ft)[\])]"
)
"""Lengths in another unit than m, and angles in degrees, in small letters."""


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
            raise EpisodeError(
                f"layout: column {last} is outside of an arm's {self.width} columns; correct it, or width"
            )

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
    def takes_all(self) -> bool:
        """Whether each of an arm's columns is position, rotation or gripper."""
        return 3 + ROTATIONS[self.rotation_kind] + len(self.gripper) == self.width

    def takes(self, column: int) -> bool:
        """Whether a column of an arm is read in m or rad."""
        turn = range(self.rotation, self.rotation + ROTATIONS[self.rotation_kind])
        fingers = self.gripper if self.opening_unit == "m" else ()
        return column - self.position in range(3) or column in turn or column in fingers

    @property
    def facts(self) -> dict[str, str]:
        """What an episode's metadata must say of its proprioception, because its numbers do not."""
        return {} if self.opening_unit in ("m", None) else {OPENING_UNIT: self.opening_unit}

    def require_names(self, names: Sequence[str], where: str) -> None:
        """Compares the columns that are taken as positions and rotations with what they are called, if that is known.

        Raises EpisodeError: there are names such as x and y, qw and qx, or roll and pitch, and those of the columns are
        in another order, or of another kind of rotation; or what is called otherwise is taken for one of these or for a
        finger, or what `require_positions` refuses.
        """
        self._require_quaternions(names, where)
        self.require_positions(names, where)
        fingers = [place for place, name in enumerate(names) if FINGER.search(name.lower())]
        for place, name in enumerate(names[self.position :], self.position):  # of one axis, where another is taken
            column, axis = (place - self.position) % self.width, AXIS.search(name.lower())
            fingers += [place] if axis and column < 3 and axis[1] != "xyz"[column] else []
        parts = ((self.position, "x, y, z"), (self.rotation, "roll, pitch, yaw (or a rotation vector)"))
        for turned, (first, words) in enumerate(parts[: 1 + (ROTATIONS[self.rotation_kind] == 3)]):
            if called := misordered(names, first, self.width, fingers, turned=bool(turned)):
                raise EpisodeError(f"{where}: the layout takes columns {called} as {words}; name the columns")
        turn = range(self.rotation, self.rotation + ROTATIONS[self.rotation_kind])
        for place, name in enumerate(map(str.lower, names)):
            own, what = place % self.width, ""
            if own in turn and is_no_turn(name):
                what = "part of a rotation"
            if own in self.gripper and is_no_opening(name, self.opening_unit == "m"):
                what = "a finger's position" if self.opening_unit == "m" else "the gripper's opening"
            if what:
                called = one_line(names[place], 60)
                raise EpisodeError(f"{where}: the layout takes {called!r} as {what}; name the columns")

    def require_positions(self, names: Sequence[str], where: str) -> None:
        """Raises EpisodeError: the columns that are taken as positions are called otherwise, or the array
        that holds them is; or by the names positions, angles or fingers are in mm, inches or degrees, Euler angles a
        rotation vector."""
        for first in range(self.position, len(names), self.width):
            placed = names[first : first + 3]
            if any(is_no_position(name) for name in map(str.lower, placed)):
                called = one_line(", ".join(dict.fromkeys(placed)), 80)
                said = f"the layout takes columns {called} as x, y, z"
                raise EpisodeError(f"{where}: {said}; name the columns of the pose")
        turn = range(self.rotation, self.rotation + ROTATIONS[self.rotation_kind])
        angles = turn if len(turn) == 3 else range(0)
        fingers = self.gripper if self.opening_unit == "m" else ()
        for column, name in enumerate(map(str.lower, names)):
            own, called = column % self.width, one_line(names[column], 60)
            if own in angles or own in fingers or own - self.position in range(3):
                if UNIT.search(re.sub("(?<=[a-z])(?=[A-Z])", "_", names[column]).lower()):
                    raise EpisodeError(f"{where}: the layout takes {called!r} in m or rad; convert it, and call it so")
            if own in turn and is_another_turn(name, self.rotation_kind):
                kind = self.rotation_kind.replace("_", " ", 1)
                raise EpisodeError(
                    f"{where}: the layout takes {called!r} as {kind}; give another with --reader layout=…"
                )
            if self.rotation_kind == "euler_xyz" and own in angles and ROTVEC.search(name):
                raise EpisodeError(
                    f"{where}: the layout takes {called!r} as roll, pitch, yaw; give one with rotation_kind rotvec"
                )

    def _require_quaternions(self, names: Sequence[str], where: str) -> None:
        of_turn = [i % self.width in range(self.rotation, self.rotation + 4) for i in range(len(names))]
        if ROTATIONS[self.rotation_kind] == 4:
            for first in range(self.rotation, len(names), self.width):
                angles = [name for name in names[first : first + 4] if ANGLE.search(name.lower())]
                if len(angles) > 2:
                    called = one_line(", ".join(angles), 80)
                    raise EpisodeError(
                        f"{where}: the layout takes columns {called} as a quaternion {self.rotation_kind[-4:]}; give "
                        "another with --reader layout=…"
                    )
        found = [QUATERNION.search(name.lower()) for name in names]
        of_r = [QUATERNION_R.search(name.lower()) if own else None for name, own in zip(names, of_turn)]
        if any(match and match[1] == "w" for match in of_r):
            found = [match or other for match, other in zip(found, of_r)]
        letters = "".join((match[match.lastindex or 0] if match else " ").translate(LETTERS) for match in found)
        if not {"w", "x"} <= {*letters}:
            return
        count = ROTATIONS[self.rotation_kind]
        for first in range(self.rotation, len(names), self.width):
            said = letters[first : first + count]
            if said.strip() and said != self.rotation_kind[-4:]:
                last = first + count
                columns, called = f"columns {first} to {last - 1}", one_line(", ".join(names[first:last]), 80)
                turned = {**vars(self), "rotation_kind": f"quat_{said}"}
                other = next(
                    (name for name, layout in LAYOUTS.items() if vars(layout) == turned), "JSON of the columns"
                )
                taken = f"a quaternion {self.rotation_kind[-4:]}" if count == 4 else self.rotation_kind
                raise EpisodeError(
                    f"{where} calls {columns} {called}, the layout takes them as {taken}; give another "
                    f"with --reader layout={other}"
                )

    def to_proprio(
        self, state: Float[np.ndarray, "T S"], where: str = "state", *, check: bool = True, named: bool = False
    ) -> Float[np.ndarray, "T P"]:
        """Per arm xyz (m), quaternion wxyz, two gripper columns (a single opening is repeated).

        Raises EpisodeError: the state's width is not a multiple of `width`; or, if `check`, an angle is none that a
        robot measures (`gap_vla.core.episode.require_measured`), which a quaternion of it would not show, or a
        quaternion's length is not 1. Columns of which most are none, as of joints, stay as they are, with a note,
        unless they are `named` a quaternion where they are stored: ρ cannot be found of them.
        """
        if state.ndim != 2 or not state.shape[1] or state.shape[1] % self.width or state.dtype.kind not in "fiu":
            raise EpisodeError(
                f"{where}: the state has shape {state.shape}, the layout has {self.width} columns of numbers per arm; "
                "name the columns (position, rotation, rotation_kind, gripper, width)"
            )
        arms: list[np.ndarray] = []
        for arm in np.split(state.astype(np.float64), state.shape[1] // self.width, axis=1):
            turn = arm[:, self.rotation : self.rotation + ROTATIONS[self.rotation_kind]]
            if check and self.rotation_kind in ("euler_xyz", "rotvec"):
                require_measured(turn, f"{where}: the state's {self.rotation_kind}, from column {self.rotation} on,")
                if (most := np.abs(turn).max(initial=0)) > MOST_TURNED:
                    step, column = np.argwhere(np.abs(turn) == most)[0]
                    at = f"at step {step}, column {self.rotation + column} of arm {len(arms)}"
                    raise EpisodeError(
                        f"{where}: the state's {self.rotation_kind} reaches {most:g} {at}; give radians: are these "
                        "degrees?"
                    )
            if check and self.rotation_kind.startswith("quat"):
                _require_unit(turn, f"from column {self.rotation} of arm {len(arms)} on", where, named)
            grip = arm[:, list(self.gripper)]
            grip = np.repeat(grip, 2, axis=1) if grip.shape[1] == 1 else grip
            position = arm[:, self.position : self.position + 3]
            arms.append(np.concatenate([position, to_quaternion(turn, self.rotation_kind), grip], axis=1))
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate(arms, axis=1).astype(np.float32)


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


def _require_unit(turn: np.ndarray, place: str, where: str, named: bool) -> None:
    lengths = np.linalg.norm(turn, axis=1)
    off = np.abs(lengths - 1) > UNIT_QUATERNION_TOLERANCE
    if 2 * off.sum() > len(off) and not named:
        _tell_joints(place)
    elif off.any():
        said = f"has length {lengths[off.argmax()]:.4g} at step {off.argmax()}, not 1"
        raise EpisodeError(f"{where}: the state's quaternion, {place}, {said}; repair or drop the episode")


@functools.cache
def _tell_joints(place: str) -> None:
    """Once, of however many recordings."""
    said = f"what is taken as a quaternion, {place}, is none in most steps, so that no ρ can be found of it"
    print(f"note: of the state, {said}; if it holds a pose, name its columns by the right layout", flush=True)


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
