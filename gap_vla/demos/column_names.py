"""What the names of a state's or an action's columns say of them, in small letters: axes, turns, fingers, or others."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import one_line
from gap_vla.demos.beside import tells

FINGER = re.compile(r"grip|finger|jaw")
_GRIPS = re.compile(rf"{FINGER.pattern}|open|clos|claw|hand|(?:^|[^a-z])ee(?![a-z])")

_FORCE = (
    r"force|torque|effort|accel|(?:^|[^a-z])(?:(?:lin|ang)?(?:ear|ular)?_?vel|error|current_?\d|(?:rate|pad)(?![a-z]))"
)
_RATE = re.compile(rf"{_FORCE}|(?:^|[^a-z])[va][xyz]$")
"""Of velocities, forces and currents, and of columns that fill up."""
_JOINT = r"^(?!.*(?:pose|eef|tcp|cartes)).*(?:joint|waist|shoulder|elbow|(?:^|[^a-z])j_?\d"
_NO_POSITION = re.compile(rf"{_RATE.pattern}|{_JOINT}|(?:^|[^a-z])q_?\d)")
"""Of joints too; `motor_0` is what LeRobot calls columns without a name."""
_NO_TURN = re.compile(rf"{_FORCE}|{_JOINT})|(?:^|[^a-z])(?:cos|sin)(?![a-z])")
"""Of a quaternion, which may be q0 … q3, or a rotation vector ax, ay, az."""
_NO_METRES = re.compile(r"(?:^|[^a-z])(?:rad(?:ians?)?|percent|pct|fraction|ratio)(?![a-z])|%")
"""Of fingers that are in another unit than m."""

QUATERNION_R = re.compile(r"(?:^|[^a-z])[ro]?([wxyzijk])$")
"""The parts of a quaternion as x … w, rx … rw, ox … ow or i, j, k, w; without a `w` among them, rx is an angle."""
QUATERNION = re.compile(
    r"(?:^|[^a-z])(?:q(?:uat(?:ernion)?)?|ori(?:entation)?|rot(?:ation)?)[_. -]?([wxyz])(?![a-z])"
    r"|(?:^|[^a-z])q_?([ijkr])$|(?:^|[^a-z])([wxyz])_q(?:uat(?:ernion)?)?$"
)
LETTERS = str.maketrans("ijkr", "xyzw")
_ORDER = re.compile("(?<![a-z])(?:xyzw|wxyz)(?![a-z])")

_TURN = re.compile(
    r"(?:^|[^a-z])[a-z]?(?:(?P<x>roll)|(?P<y>pitch)|(?P<z>yaw))(?![a-z])|(?:^|[^a-z])r([xyz])(?:[^a-z0-9]rad)?$"
)
AXIS = re.compile(r"(?:^|[^a-z0-9])(?:delta|pos|[a-z])?([xyz])(?:[^a-z0-9](?:pos|position|m))?$")
_OF_TURN = re.compile(r"(?:^|[^a-z])(?:quat|rot|ori|euler|axis.?angle)")
ROTVEC = re.compile(r"rot(?:ation)?_?vec|axis.?angle")
ANGLE = re.compile(rf"{ROTVEC.pattern}|(?:^|[^a-z])[a-z]?(?:roll|pitch|yaw)(?![a-z])")
_NO_QUATERNION = re.compile(rf"{ROTVEC.pattern}|euler|r(?:ot)?_?6d|(?:^|[^a-z])(?:axis_[xyz]|angle)$")
_NO_ANGLES = re.compile(r"quat|(?:^|[^a-z])q_?[wxyz]$|r(?:ot)?_?6d")


def is_no_position(name: str) -> bool:
    """Whether a column is none of x, y, z: a velocity, a force, a joint, or something of the steps, as a time."""
    return bool(_RATE.search(name) or (_NO_POSITION.search(name) and not AXIS.search(name))) or tells(name)


def is_no_turn(name: str) -> bool:
    """Whether a column is no part of a rotation; `gripper_roll` is."""
    finger = FINGER.search(name) and not (_of_pose(name) or _OF_TURN.search(name))
    return bool(finger or _NO_TURN.search(name)) or tells(name)


def is_another_turn(name: str, kind: str) -> bool:
    """Whether a column is of another kind of rotation, or of a quaternion in another order; roll, pitch, yaw of a
    rotation vector are what some call its parts."""
    if order := _ORDER.search(name):
        return order[0] != kind[-4:]
    if kind.startswith("quat"):
        return bool(_NO_QUATERNION.search(name))
    return bool(_NO_ANGLES.search(name)) or (kind == "rotvec" and "euler" in name)


def is_no_opening(name: str, metres: bool) -> bool:
    """Whether a column is neither a gripper's opening nor, in `metres`, a finger's position."""
    finger = FINGER.search(name) or _HAND.search(name)
    other = tells(name) or (metres and (_of_pose(name) or bool(_NO_POSITION.search(name))))
    wrong = (_FORCE_OR_PAD if finger else _RATE).search(name) or (metres and _NO_METRES.search(name))
    return bool(wrong) or (other and not finger)


_HAND = re.compile(r"(?:^|[^a-z])(?:hand|claw)_?(?:joint|j)")
"""Of a hand whose joints are its fingers."""
_FORCE_OR_PAD = re.compile(_FORCE.replace("|pad", ""))
"""Of a finger, which has a pad."""


def _of_pose(name: str) -> bool:
    return any(one.search(name) for one in (AXIS, _TURN, QUATERNION, QUATERNION_R))


def misordered(
    names: Sequence[str], first: int, width: int, fingers: Sequence[int] = (), *, turned: bool = False
) -> str:
    """The names of an arm's three columns from `first` on that are no x, y, z; empty if they may be.

    They are none if they are these axes in another order, if one is among the `fingers`, or if they are turns and the
    next three are axes. Where they are to be `turned`, roll, pitch, yaw are x, y, z too.
    """
    turns = [match and (match[4] or match.lastgroup) for match in map(_TURN.search, map(str.lower, names))]
    along = [match and match[1] for match in map(AXIS.search, map(str.lower, names))]
    axes = "".join((turned and turn) or axis or " " for turn, axis in zip(turns, along))
    for start in range(first, len(names), width):
        block, behind = axes[start : start + 3], slice(start + 3, start + 6)
        other = sorted(block) == [*"xyz"] or any(start <= place < start + 3 for place in fingers)
        swapped = all(turns[start : start + 3]) and not any(turns[behind]) and sorted(axes[behind]) == [*"xyz"]
        if (other and block != "xyz") or (swapped and not turned):
            return one_line(", ".join(names[start : start + 3]), 80)
    return ""


def tell_last(names: Sequence[str], where: str) -> None:
    """A note, if by its name the last number of an arm's action, which is taken as the gripper's, is another."""
    last = [] if len(names) % 7 else [names[place] for place in range(6, len(names), 7)]
    if other := [name for name in last if not _GRIPS.search(name.lower())]:
        said = "is taken as the gripper's and not normalised"
        print(f"note: {where}: {one_line(other[0], 60)!r}, the last number of an arm's action, {said}", flush=True)


def require_action_names(names: Sequence[str], where: str) -> None:
    """Actions of 7 an arm are xyz, rotation, gripper; the last is not normalised, and what is read of it is read there.

    Raises EpisodeError: there is one gripper an arm by the names, and at another place; or three axes in another order.
    """
    if len(names) % 7:
        return
    grippers = [place for place, name in enumerate(names) if FINGER.search(name.lower())]
    wrong = [place for place in grippers if place % 7 != 6]
    if wrong and 7 * len(grippers) == len(names):  # more of them are the joints of a hand
        raise EpisodeError(
            f"{where} calls column {wrong[0]} {one_line(names[wrong[0]], 60)!r}; actions of 7 an arm have the gripper "
            "last: put it there"
        )
    if called := misordered(names, 0, 7) or misordered(names, 3, 7, turned=True):
        raise EpisodeError(
            f"{where} has columns {called} in this order; actions of 7 an arm are x, y, z, roll, pitch, yaw, gripper: "
            "put them so"
        )
