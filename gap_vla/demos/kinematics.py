"""Poses from joint states, by forward kinematics: some robots by name, any other by its URDF or MJCF.

The tool point belongs to the robot: it lies between the fingertips, where tasks happen, and not at the flange.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gap_vla.core.columns import Arm, Columns
from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError, EpisodeError

UNITS = {"joints": "rad", "joints_deg": "degrees"}


class Link(NamedTuple):
    """A fixed step from one frame to the next, then a joint about or along an axis of the new frame."""

    offset: Sequence[float]  # x, y, z, m
    quaternion: Sequence[float] = (1, 0, 0, 0)  # wxyz
    joint: str = ""  # "": there is none
    axis: Sequence[float] = (0, 0, 1)  # unit
    slides: bool = False
    zero: float = 0.0  # value of the joint where it moves nothing, rad or m


@dataclasses.dataclass(frozen=True)
class Chain:
    """The links from a robot's base to its tool point.

    Attributes:
        name: of the robot, or of its file.
        tool: name of the tool point.
        links: from the base on.
    """

    name: str
    tool: str
    links: tuple[Link, ...]

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints, from the base on."""
        return tuple(link.joint for link in self.links if link.joint)

    def pose(
        self, q: Float[np.ndarray, "T J"], joints: Sequence[str] = ()
    ) -> tuple[Float[np.ndarray, "T 3"], Float[np.ndarray, "T 4"]]:
        """Position (m) and quaternion (wxyz) of the tool point in the frame of the base.

        Args:
            q: angles of the joints in rad; of those that slide, m.
            joints: which joints the columns of `q` are; the others do not move. Default: all, in order.
        """
        from scipy.spatial.transform import Rotation

        values = dict(zip(joints or self.joints, np.asarray(q, np.float64).T, strict=True))
        position, turned = np.zeros((len(q), 3)), Rotation.from_quat(np.tile([0.0, 0, 0, 1], (len(q), 1)))
        for link in self.links:
            position = position + turned.apply(link.offset)
            turned = turned * Rotation.from_quat(np.roll(link.quaternion, -1))
            if link.joint in values:
                moved = (values[link.joint] - link.zero)[:, None] * np.asarray(link.axis)
                if link.slides:
                    position = position + turned.apply(moved)
                else:
                    turned = turned * Rotation.from_rotvec(moved)
        return position, np.roll(turned.as_quat(), 1, axis=1)

    @classmethod
    def named(cls, name: str, tool: str = "") -> Chain:
        """A robot of `robots.json`, by its name or by LeRobot's. Raises ConfigError: unknown.

        >>> Chain.named("so101").joints
        ('shoulder_pan', 'shoulder_lift', 'elbow_flex', 'wrist_flex', 'wrist_roll')
        """
        name = robot_called(name) or choose(name, list(known_robots()), "robot")
        robot = known_robots()[name]
        tool = choose(tool or next(iter(robot["tools"])), list(robot["tools"]), f"tool of {name}")
        return cls(name, tool, (*(Link(**link) for link in robot["links"]), Link(**robot["tools"][tool])))

    @classmethod
    def from_urdf(cls, path: str | Path, tool: str) -> Chain:
        """The chain from the root to the link `tool` of a URDF. Raises ConfigError: there is no such link."""
        from scipy.spatial.transform import Rotation

        root = ET.parse(path).getroot()
        _require_tool(path, tool, [link.get("name", "") for link in root.iter("link")])
        leading = {joint.findall("child")[0].get("link"): joint for joint in root.findall("joint")}
        links: list[Link] = []
        place: str | None = tool
        while place in leading:
            joint = leading[place]
            kind, origin = joint.get("type"), joint.find("origin")
            turn = np.roll(Rotation.from_euler("xyz", _numbers(origin, "rpy")).as_quat(), 1)
            link = Link(_numbers(origin, "xyz"), turn.tolist())
            if kind in ("revolute", "continuous", "prismatic"):
                axis = np.array(_numbers(joint.find("axis"), "xyz", "1 0 0"))
                axis /= np.linalg.norm(axis)
                link = Link(*link[:2], joint.get("name", ""), axis.tolist(), kind == "prismatic")
            links.insert(0, link)
            place = joint.findall("parent")[0].get("link")
        return cls(Path(path).name, tool, tuple(links))

    @classmethod
    def from_mjcf(cls, path: str | Path, tool: str) -> Chain:
        """The chain from the world to the site or body `tool` of an MJCF, which MuJoCo reads.

        Raises ConfigError: MuJoCo cannot, or there is no such site or body.
        """
        import mujoco

        try:
            model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None
        sites = [model.site(i).name for i in range(model.nsite)]
        bodies = [model.body(i).name for i in range(model.nbody)]
        _require_tool(path, tool, sites + bodies)
        links: list[Link] = []
        if tool in sites:
            site = model.site(tool)
            links, body = [Link(site.pos.tolist(), site.quat.tolist())], int(site.bodyid[0])
        else:
            body = bodies.index(tool)
        while body:  # 0 is the world
            own = [Link(model.body_pos[body].tolist(), model.body_quat[body].tolist())]
            for joint in map(model.joint, model.body_jntadr[body] + np.arange(model.body_jntnum[body])):
                kind = mujoco.mjtJoint(int(joint.type[0]))
                if kind in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
                    link = Link(joint.pos.tolist(), joint=joint.name, axis=joint.axis.tolist())
                    slides = kind == mujoco.mjtJoint.mjJNT_SLIDE
                    own += [link._replace(slides=slides, zero=float(joint.qpos0[0])), Link((-joint.pos).tolist())]
            links, body = own + links, int(model.body_parentid[body])
        return cls(Path(path).name, tool, tuple(links))


def _numbers(element: ET.Element | None, key: str, usual: str = "0 0 0") -> list[float]:
    return [float(number) for number in (usual if element is None else element.get(key, usual)).split()]


def _require_tool(path: str | Path, tool: str, names: Sequence[str]) -> None:
    if tool not in names or not tool:
        said = f"has no {tool!r}" if tool else "does not say where its tool point is"
        raise ConfigError(f"{path} {said}; name it with --tool: {', '.join(filter(None, names))}")


@functools.cache
def known_robots() -> dict[str, Any]:
    """Of each: `source`, `licence`, `called` (LeRobot's names), `links` up to the flange, `tools` behind it."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("robots.json").read_text())
    return found


def robot_called(robot_type: str) -> str:
    """The robot of `robots.json` that LeRobot calls so; "": none.

    >>> robot_called("bi_so101_follower"), robot_called("aloha"), robot_called("toaster")
    ('so101', 'viperx', '')
    """
    called = robot_type.lower()
    return next((name for name, robot in known_robots().items() if called in (name, *robot["called"])), "")


def chain_of(robot: str, tool: str = "") -> Chain:
    """A chain by the name of the robot, or by the path of a URDF or MJCF."""
    path = Path(robot)
    if not path.suffix and len(path.parts) == 1:
        return Chain.named(robot, tool)
    try:
        is_urdf = ET.parse(path).getroot().tag == "robot"
    except (OSError, ET.ParseError) as error:
        raise ConfigError(f"robot {robot!r} is no URDF and no MJCF: {error}") from None
    return Chain.from_urdf(path, tool) if is_urdf else Chain.from_mjcf(path, tool)


@dataclasses.dataclass(frozen=True)
class Robot:
    """Which columns of a state are the joints of which arm.

    Attributes:
        chains: one an arm.
        joints: of each arm, which joints its columns are.
        columns: of the state.
    """

    chains: tuple[Chain, ...]
    joints: tuple[tuple[str, ...], ...]
    columns: Columns

    def __str__(self) -> str:
        arms = []
        for chain, joints, blocks in zip(self.chains, self.joints, self.columns.arms):
            unit = next(UNITS[block.word] for block in blocks if block.kind == "joints")
            arms.append(f"{chain.name} ({len(joints)} joints, {unit}), tool {chain.tool}")
        return f"joints of {' | '.join(dict.fromkeys(arms))}{', each arm' if len({*arms}) < len(arms) else ''}"

    def poses(self, state: Float[np.ndarray, "T P"]) -> tuple[Arm, ...]:
        """The pose of each arm's tool point in the frame of the arm's base; its gripper columns stay as they are."""
        in_rad, degrees = np.array(state), self.columns.of("joints_deg")
        in_rad[:, degrees] = np.deg2rad(state[:, degrees])
        of_arms = zip(self.chains, self.joints, self.columns.by_arm("joints"), self.columns.by_arm("gripper"))
        return tuple(
            Arm(*chain.pose(in_rad[:, own], joints), np.take(state, gripper, axis=1))
            for chain, joints, own, gripper in of_arms
        )


def robot_for(
    columns: Columns | None, robot: str, tool: str = "", joints: str = "", names: Sequence[str] = ()
) -> Robot:
    """The robot whose joints a state holds.

    Args:
        columns: of the state.
        robot: a name or a path; of several arms one for all, or one each, separated by commas.
        tool: the tool point, likewise. Default: the usual one of a robot with a name.
        joints: which joints the columns are, as "waist,shoulder,elbow", with `|` between arms. Default: all joints of
            the robot, in the order of `names` if these are the robot's names, else from the base on.
        names: what the file calls the columns.

    Raises:
        EpisodeError: no columns are described as joints, or in percent, or not as many as the robot has.
    """
    widths = [sum(block.width for block in arm if block.kind == "joints") for arm in (columns.arms if columns else ())]
    if columns is None or not all(widths):
        raise EpisodeError(
            f"robot {robot}: say with --columns which columns of the state are its joints, and in which unit, as "
            "'joints:6 gripper_01' (rad) or 'joints_deg:5 gripper_01' (degrees)"
        )
    if any(block.word == "joints_percent" for arm in columns.arms for block in arm):
        raise EpisodeError(
            f"robot {robot}: the joints are in percent of their range, and a pose needs angles; convert them by the "
            "ranges in the robot's calibration file and say joints_deg with --columns, or go without (--robot none)"
        )
    called = iter(joint_names(columns, names))
    parts = (_for_arms(robot, ",", columns), _for_arms(tool, ",", columns), _for_arms(joints, "|", columns))
    chains, orders = [], []
    for width, own, point, text in zip(widths, *parts):
        chain, declared = chain_of(own, point), tuple(itertools.islice(called, width))
        order = tuple(name.strip() for name in text.split(",")) if text else chain.joints
        if not text and {*declared} == {*order}:
            order = declared
        if len(order) != width or not {*order} <= {*chain.joints}:
            raise EpisodeError(
                f"{chain.name} has the joints {', '.join(chain.joints)}; the state ({columns}) has {width} joints"
                f"{f', named {text}' if text else ''}: name another robot, correct --columns, or say with --joints "
                "which joints they are"
            )
        chains.append(chain)
        orders.append(order)
    return Robot(tuple(chains), tuple(orders), columns)


def joint_names(columns: Columns, names: Sequence[str]) -> list[str]:
    """What the joint columns are called, without arm and `.pos`: `left_waist` is `waist`."""
    return [re.sub(r"^(left|right)_(?!j\d)|\.pos$", "", names[i]) for i in columns.of("joints") if names]


def is_confirmed(robot: Robot, names: Sequence[str]) -> bool:
    """Whether the file's names of the joint columns are those of the robot's joints, or number them."""
    called, known = joint_names(robot.columns, names), list(itertools.chain(*robot.joints))
    return called == known or (bool(called) and all(re.search(r"joint_?\d+$", name) for name in called))


def _for_arms(text: str, separator: str, columns: Columns) -> list[str]:
    """What is said of each arm, or of all alike."""
    said = [part.strip() for part in text.split(separator)]
    if len(said) not in (1, len(columns.arms)):
        raise EpisodeError(f"{text!r} is of {len(said)} arms; the state ({columns}) has {len(columns.arms)}")
    return said * (len(columns.arms) // len(said))
