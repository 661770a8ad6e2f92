"""What the declared names of a LeRobot feature say of its columns: a table of the names that its robots use."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from gap_vla.core.columns import Columns

BLOCKS = {
    ("x", "y", "z"): "position",
    ("pos_x", "pos_y", "pos_z"): "position",
    ("dx", "dy", "dz"): "position",
    ("rx", "ry", "rz"): "rotvec",
    ("wx", "wy", "wz"): "rotvec",
    ("axis_angle1", "axis_angle2", "axis_angle3"): "rotvec",
    ("roll", "pitch", "yaw"): "euler_xyz",
    ("qx", "qy", "qz", "qw"): "quat_xyzw",
    ("qw", "qx", "qy", "qz"): "quat_wxyz",
    ("quat_x", "quat_y", "quat_z", "quat_w"): "quat_xyzw",
    ("quat_w", "quat_x", "quat_y", "quat_z"): "quat_wxyz",
    ("rx", "ry", "rz", "rw"): "quat_xyzw",
    ("gripper", "gripper"): "gripper:2",
    ("finger_left", "finger_right"): "gripper:2",
    ("left_finger", "right_finger"): "gripper:2",
    ("finger_1", "finger_2"): "gripper:2",
    ("gripper_0", "gripper_1"): "gripper:2",
    ("gripper",): "gripper_01",
    ("gripper_pos",): "gripper_01",
    ("gripper_position",): "gripper_01",
    ("gripper_open",): "gripper_01",
    ("gripper_delta",): "gripper_01",
}
"""Neighbouring names, without the arm's, to what they are. The first block that fits the longest is taken."""

DEGREES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
"""Joints of SO-100, SO-101 and Koch. LeRobot does not say their unit. It records SO arms in degrees since 0.4, which
writes format v3, and in percent of their range before, as `shoulder_pan.pos`; a Koch always in percent."""
RADIANS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")  # ALOHA
SIDES = ("left_", "right_")
NAMES = {word: names for names, word in reversed(BLOCKS.items()) if len({*names}) == len(names)}
"""What the columns of a block are called, where the block's word has names of its own."""
ENDS = ("main_", "ee.", "ee_", "eef.", "eef_", "tcp.", "tcp_", "delta_")
"""What may stand before the name of a column, beside the arm's side."""


def names_of(said: Any, width: int) -> list[str]:
    """The names of a feature's columns: in a list, under a key as `motors`, or as a map to their places."""
    while isinstance(said, Mapping | list) and len(said) == 1 and width > 1:
        (said,) = said.values() if isinstance(said, Mapping) else said
    if isinstance(said, Mapping) and all(isinstance(place, int) for place in said.values()):
        said = sorted(said, key=said.__getitem__)
    elif isinstance(said, Mapping) and all(isinstance(part, list) for part in said.values()):
        said = [f"{key}_{name}" for key, part in said.items() for name in part]
    known = isinstance(said, list) and len(said) == width and all(isinstance(name, str) for name in said)
    return said if known else []


def names_for(columns: Columns | None, width: int) -> list[str]:
    """Names of so many columns that say what these are; those of undescribed columns are numbers.

    >>> names_for(Columns.parse("position joints:2 gripper_01"), 6)
    ['x', 'y', 'z', 'joint_1', 'joint_2', 'gripper']
    """
    if columns is None:
        return [f"column_{i}" for i in range(width)]
    arms = len(columns.arms)
    starts = {1: ("",), 2: SIDES}.get(arms) or [f"arm{i}_" for i in range(arms)]
    names = []
    for start, blocks in zip(starts, columns.arms):
        for block in blocks:
            word = "joint" if block.word == "joints" else block.word
            known = NAMES.get(str(block)) or [f"{word}_{i + 1}" for i in range(block.width)]
            names += [start + name for name in known]
    return names


def columns_from(names: Sequence[str], percent: bool = False) -> Columns | None:
    """The description by the names; None: they name neither a position nor joints.

    Args:
        percent: whether joints as `shoulder_pan.pos` are in percent of their range.

    >>> str(columns_from(["x", "y", "z", "rx", "ry", "rz", "gripper"]))
    'position rotvec gripper_01'
    >>> str(columns_from(["left_waist", "left_gripper", "right_waist", "right_gripper"]))
    'joints:1 gripper_01 | joints:1 gripper_01'
    """
    known = {name for block in BLOCKS for name in block}
    lower = [name.lower() for name in names]
    sides = [next((side for side in SIDES if name.startswith(side) and name not in known), "") for name in lower]
    arms = [list(group) for _, group in itertools.groupby(zip(sides, lower), key=lambda pair: pair[0])]
    if len(arms) > len({*sides}):  # the arms' columns alternate
        return None
    texts = [" ".join(_words([name.removeprefix(side) for side, name in arm], percent)) for arm in arms]
    columns = Columns.parse(" | ".join(texts)) if names else None
    return columns if columns and (columns.of("position") or columns.of("joints")) else None


def _words(names: Sequence[str], percent: bool) -> list[str]:
    """The blocks of one arm; neighbouring joints are one block."""
    plain = [_plain(name) for name in names]
    words: list[str] = []
    place = 0
    while place < len(plain):
        fitting = [block for block in BLOCKS if tuple(plain[place : place + len(block)]) == block]
        if fitting:
            block = max(fitting, key=len)
            words.append(BLOCKS[block])
            place += len(block)
        else:
            single = _single(names[place], plain[place], percent)
            before, _, count = words[-1].partition(":") if words else ("", "", "")
            if before == single:
                words[-1] = f"{single}:{int(count) + 1}"
            else:
                words.append(f"{single}:1")
            place += 1
    return words


def _plain(name: str) -> str:
    """A name without what may stand around it: `ee.x`, `gripper.pos`, `delta_x_ee`."""
    for end in ENDS:
        name = name.removeprefix(end)
    return name.removesuffix(".pos").removesuffix("_ee")


def _single(name: str, plain: str, percent: bool) -> str:
    if plain in DEGREES:
        return "joints_percent" if percent and name.endswith(".pos") else "joints_deg"
    numbered = plain.startswith("joint") and plain.removeprefix("joint").strip("_. ").isdigit()
    return "joints" if numbered or plain in RADIANS or name.endswith(".pos") else "other"
