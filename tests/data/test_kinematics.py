"""Forward kinematics agrees with MuJoCo's, and knows which columns are which joints."""

import numpy as np
import pytest

from experiments.robots import ROBOSUITE, robosuite_model
from gap_vla.core.columns import Columns
from gap_vla.core.errors import ConfigError, EpisodeError
from gap_vla.demos.fields import Fields
from gap_vla.demos.kinematics import Chain, chain_of, is_confirmed, known_robots, robot_for
from gap_vla.demos.source import open_source
from tests.helpers.demonstrations import write_lerobot

INERTIA = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
URDF = f"""<robot name="arm"><mujoco><compiler fusestatic="false"/></mujoco>
  <link name="base"/><link name="a">{INERTIA}</link><link name="b">{INERTIA}</link><link name="c">{INERTIA}</link>
  <link name="tip"/><link name="camera"/>
  <joint name="pan" type="revolute"><parent link="base"/><child link="a"/><origin xyz="0.1 0 0.2" rpy="0.3 -0.2 0.5"/>
    <axis xyz="0 0.6 0.8"/><limit lower="-2" upper="2" effort="1" velocity="1"/></joint>
  <joint name="slide" type="prismatic"><parent link="a"/><child link="b"/><origin rpy="1.2 0 0"/><axis xyz="0 0 2"/>
    <limit lower="-2" upper="2" effort="1" velocity="1"/></joint>
  <joint name="roll" type="continuous"><parent link="b"/><child link="c"/><origin xyz="0 0.3 0"/></joint>
  <joint name="mount" type="fixed"><parent link="c"/><child link="tip"/><origin xyz="0 0 0.1" rpy="0 1 0"/></joint>
  <joint name="look" type="fixed"><parent link="base"/><child link="camera"/></joint>
</robot>"""
MJCF = """<mujoco><compiler angle="radian"/><worldbody><body name="base" pos="0.1 0 0"><geom size="0.1"/>
  <body name="arm" pos="0 0 0.2" euler="0.3 0 0.4">
    <joint name="lift" type="slide" axis="0 0.6 0.8" ref="0.05"/>
    <joint name="turn" pos="0.1 0.2 0.3" axis="1 0 0" ref="0.4"/><geom size="0.1"/>
    <body name="hand" pos="0 0.1 0.2"><joint name="twist" axis="0 0 1"/><geom size="0.1"/>
      <site name="tip" pos="0 0 0.1" euler="0 0.5 0"/></body></body></body></worldbody></mujoco>"""


def of_mujoco(model, joints, point, q):
    """Positions and rotation matrices of a site or body, by MuJoCo."""
    import mujoco

    data, found = mujoco.MjData(model), []
    sites = [model.site(i).name for i in range(model.nsite)]
    for row in q:
        for name, value in zip(joints, row):
            data.joint(name).qpos = value
        mujoco.mj_kinematics(model, data)
        place = data.site(point) if point in sites else data.body(point)
        found.append(np.concatenate([place.xpos, place.xmat]))
    return np.array(found)


def as_found(pose):
    from scipy.spatial.transform import Rotation

    position, quaternion = pose
    matrices = Rotation.from_quat(np.roll(quaternion, -1, axis=1)).as_matrix()
    return np.concatenate([position, matrices.reshape(-1, 9)], axis=1)


def joints_at_random(joints, steps=50):
    return np.random.default_rng(0).uniform(-1.5, 1.5, (steps, joints))


@pytest.mark.parametrize("name", ROBOSUITE)
def test_a_robot_of_the_table_moves_as_its_model_in_mujoco(name):
    import mujoco

    model, chain = mujoco.MjModel.from_xml_string(robosuite_model(ROBOSUITE[name][0])), Chain.named(name)
    q = joints_at_random(len(chain.joints))
    expected = of_mujoco(model, [f"robot0_{joint}" for joint in chain.joints], "gripper0_right_grip_site", q)
    np.testing.assert_allclose(as_found(chain.pose(q)), expected, atol=1e-9)
    flange = of_mujoco(model, [f"robot0_{joint}" for joint in chain.joints], "robot0_right_hand", q)
    np.testing.assert_allclose(as_found(Chain.named(name, "flange").pose(q)), flange, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "joints", "rest"),
    [(URDF, ("pan", "slide", "roll"), 0), (MJCF, ("lift", "turn", "twist"), 0.4)],
)
def test_a_chain_from_a_file_moves_as_in_mujoco(tmp_path, text, joints, rest):
    import mujoco

    (path := tmp_path / "robot.xml").write_text(text)
    model, chain = mujoco.MjModel.from_xml_string(text), chain_of(str(path), "tip")
    assert chain.joints == joints
    q = joints_at_random(len(joints))
    np.testing.assert_allclose(as_found(chain.pose(q)), of_mujoco(model, joints, "tip", q), atol=1e-12)
    some, _ = chain.pose(q[:, [2, 0]], [joints[2], joints[0]])  # a joint that is not named does not move
    q[:, 1] = rest
    np.testing.assert_allclose(some, of_mujoco(model, joints, "tip", q)[:, :3], atol=1e-12)


def test_the_tool_point_of_a_file_is_named(tmp_path):
    (path := tmp_path / "robot.urdf").write_text(URDF)
    with pytest.raises(ConfigError, match="camera"):
        chain_of(str(path))


def test_so_arms_and_viperx_are_as_they_are_built():
    reach, _ = Chain.named("viperx").pose(np.zeros((1, 6)))
    np.testing.assert_allclose(reach, [[0.05955 + 0.2 + 0.1 + 0.069744 + 0.15, 0, 0.079 + 0.04805 + 0.3]], atol=1e-9)
    q = joints_at_random(5, 200)
    new, old = (Chain.named(name).pose(q)[0] for name in ("so101", "so100"))
    new, old = new - new.mean(0), old - old.mean(0)
    left, _, right = np.linalg.svd(old.T @ new)
    assert np.linalg.det(left @ right) > 0
    assert np.sqrt(((old @ left @ right - new) ** 2).sum(1).mean()) < 0.01  # m, about 0.4 m of reach
    assert all(robot["source"] and robot["licence"] in ("MIT", "Apache-2.0") for robot in known_robots().values())


def test_lerobot_proposes_a_robot_that_the_names_of_the_joints_confirm(tmp_path):
    names = [*(f"{joint}.pos" for joint in Chain.named("so101").joints), "gripper.pos"]
    columns = {"observation.state": np.ones((9, 6)), "action": np.ones((9, 6))}

    def opened(path, names, robot_type, version="v3.0", **fields):
        named = {"observation.state": names}
        made = [{"task": "", "columns": columns}]
        return open_source(
            write_lerobot(tmp_path / path, made, named, version=version, robot_type=robot_type), Fields(**fields)
        )

    arm = opened("known", names, "so101_follower")[0].arms[0]
    np.testing.assert_allclose(arm.position, Chain.named("so101").pose(np.deg2rad(np.ones((9, 5))))[0])
    assert opened("unknown", names, "myarm").robot is None
    assert opened("no", names, "so101_follower", robot="none").robot is None
    numbered = opened("numbered", [f"joint_{i}" for i in range(6)], "ur5e")
    assert "pose <- joints of ur5e (6 joints, rad), tool grip_site" in numbered.account()
    others = opened("others", ["waist", "shoulder", *names[2:]], "so101_follower")
    assert others.robot is None and "--robot so101" in others.account()
    percent = opened("percent", names, "so101_follower", version="v2.1")
    assert percent.robot is None and "percent" in percent.account()
    with pytest.raises(EpisodeError, match="--robot"):
        _ = percent[0].arms


def test_columns_are_joints_by_name_or_in_order_and_in_their_unit():
    rows = np.random.default_rng(1).uniform(-1, 1, (4, 14))
    both = robot_for(Columns.parse("joints:6 gripper_01 | joints_deg:6 gripper_01"), "aloha", joints="")
    left, right = both.poses(np.concatenate([rows[:, :7], np.rad2deg(rows[:, :6]), rows[:, 6:7]], axis=1))
    np.testing.assert_allclose(left.position, right.position, atol=1e-12)
    np.testing.assert_array_equal(left.gripper, rows[:, 6:7])
    columns = Columns.parse("gripper_01 joints:5")
    names = ["gripper.pos", *(f"{joint}.pos" for joint in Chain.named("so101").joints[::-1])]
    turned = robot_for(columns, "so101", names=names)
    assert is_confirmed(turned, names) and not is_confirmed(turned, ["a"] * 6)
    np.testing.assert_allclose(turned.poses(rows[:, :6])[0].position, Chain.named("so101").pose(rows[:, 5:0:-1])[0])
    some = robot_for(Columns.parse("joints:2 other:4"), "so101", joints="elbow_flex, shoulder_pan")
    expected, _ = Chain.named("so101").pose(np.stack([rows[:, 1], 0 * rows[:, 0], rows[:, 0], *0 * rows.T[:2]], axis=1))
    np.testing.assert_allclose(some.poses(rows[:, :6])[0].position, expected)


@pytest.mark.parametrize(
    ("columns", "robot", "said"),
    [
        (None, "so101", "--columns"),
        ("joints_percent:5 gripper_01", "so101", "percent"),
        ("joints:6 gripper_01", "so101", "wrist_roll"),
    ],
)
def test_a_robot_that_is_not_that_of_the_data_is_refused(columns, robot, said):
    with pytest.raises(EpisodeError, match=said):
        robot_for(columns and Columns.parse(columns), robot)
