"""Ordinary recordings as public tools and data sets store them: one pick and place, in the layouts that people have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.helpers.demonstrations import png, smooth_frames, write_arrays, write_lerobot

WAYPOINTS = np.array(
    [
        # x, y, z, yaw, opening
        [0.30, 0.00, 0.30, 0.0, 1],
        [0.45, 0.12, 0.25, 0.6, 1],  # above the block
        [0.45, 0.12, 0.05, 0.6, 1],  # down
        [0.45, 0.12, 0.05, 0.6, 0],  # close
        [0.45, 0.12, 0.25, 0.6, 0],  # lift
        [0.35, -0.20, 0.25, -0.3, 0],  # carry
        [0.35, -0.20, 0.25, -0.3, 1],  # open
    ]
)
LEG = 14
"""Steps from one waypoint to the next."""
SWITCHES = LEG * np.arange(1, len(WAYPOINTS) - 1)


@dataclasses.dataclass(frozen=True)
class Moves:
    """A pick and place of one arm over T steps, with a few steps of rest at the end."""

    position: np.ndarray  # T×3, m
    yaw: np.ndarray  # T, rad; the hand points down
    opening: np.ndarray  # T, 1 is open
    seed: int

    def __len__(self) -> int:
        return len(self.position)

    @property
    def wxyz(self) -> np.ndarray:
        zero = 0 * self.yaw
        return np.stack([zero, np.cos(self.yaw / 2), -np.sin(self.yaw / 2), zero], 1)

    @property
    def xyzw(self) -> np.ndarray:
        return np.roll(self.wxyz, -1, 1)

    @property
    def rotvec(self) -> np.ndarray:
        return np.pi * np.stack([np.cos(self.yaw / 2), -np.sin(self.yaw / 2), 0 * self.yaw], 1)

    @property
    def euler(self) -> np.ndarray:
        return np.stack([np.full(len(self), 0.05), 0 * self.yaw, self.yaw], 1)

    @property
    def fingers(self) -> np.ndarray:
        return 0.04 * np.stack([self.opening, -self.opening], 1)

    @property
    def closes(self) -> np.ndarray:
        """The command of the gripper, T×1: 1 from where it begins to close until it begins to open."""
        moved = np.diff(self.opening, append=self.opening[-1])
        begun = [np.flatnonzero(moved < 0)[0], np.flatnonzero(moved > 0)[0]]
        step = np.arange(len(self))
        return ((step >= begun[0]) & (step < begun[1])).astype(float)[:, None]

    @property
    def moved(self) -> np.ndarray:
        """Of each step the motion until the next, T×6 (m, rad)."""
        turned = np.zeros((len(self), 3))
        turned[:, 2] = -np.diff(self.yaw, append=self.yaw[-1])
        return np.concatenate([np.diff(self.position, axis=0, append=self.position[-1:]), turned], 1)

    @property
    def osc(self) -> np.ndarray:
        """Actions of robosuite's OSC: movements in [-1, 1], a gripper that +1 closes."""
        return np.concatenate([self.moved / ([0.05] * 3 + [0.5] * 3), 2 * self.closes - 1], 1)

    @property
    def frames(self) -> np.ndarray:
        frames = smooth_frames(len(self), self.seed, 16)
        for step, picture in enumerate(frames):
            picture[4:8, step % 12 : step % 12 + 4, 1] = 250  # a block that moves
        return frames


def moves(seed: int) -> Moves:
    rng = np.random.default_rng(seed)
    rows = WAYPOINTS.copy()
    shift = rng.normal(0, 0.01, (len(rows), 4))
    shift[3], shift[6] = shift[2], shift[5]  # where only the gripper moves
    rows[:, :4] += shift
    steps = LEG * (len(rows) - 1)
    place, part = np.divmod(np.arange(steps), LEG)
    share = (part / LEG)[:, None]
    path = rows[place] + (rows[place + 1] - rows[place]) * share**2 * (3 - 2 * share)
    path = np.concatenate([path, path[-1:].repeat(4 + seed, 0)])
    path[:, :3] += rng.normal(0, 2e-4, (len(path), 3))
    return Moves(path[:, :3], path[:, 3], path[:, 4], seed)


EVERY = [moves(seed) for seed in range(4)]

# HDF5


def hdf5(make: Callable[[Moves], Mapping[str, Any]], **attributes: Any) -> Callable[[Path], Path]:
    """A writer of `data/demo_i` with the arrays that `make` gives."""
    return lambda home: write_arrays(home / "demos.hdf5", [make(one) for one in EVERY], **attributes)


def robosuite(one: Moves) -> dict[str, Any]:
    """robomimic's names, with a SpaceMouse's actions beyond 1 and absolute ones beside them."""
    ahead = np.concatenate([one.position, one.rotvec], 1)
    ahead = np.concatenate([ahead[1:], ahead[-1:]])
    return {
        "actions": one.osc * [4, 4, 4, 1, 1, 1, 1],
        "actions_abs": np.concatenate([ahead, 2 * one.closes - 1], 1),
        "rewards": np.zeros(len(one)),
        "dones": np.zeros(len(one), int),
        "states": np.zeros((len(one), 45)),
        "obs/robot0_eef_pos": one.position,
        "obs/robot0_eef_quat": one.xyzw,
        "obs/robot0_gripper_qpos": one.fingers,
        "obs/object": np.zeros((len(one), 14)),
        "obs/agentview_image": one.frames,
    }


def wipe(one: Moves) -> dict[str, Any]:
    """robosuite's Wipe with a UR5e, which has no gripper."""
    every = robosuite(one)
    names = ("obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/agentview_image")
    return {"actions": one.osc[:, :6], **{name: every[name] for name in names}}


def libero(one: Moves) -> dict[str, Any]:
    return {
        "actions": one.osc,
        "robot_states": np.concatenate([one.fingers, one.position, one.xyzw], 1),
        "states": np.zeros((len(one), 92)),
        "obs/ee_pos": one.position,
        "obs/ee_ori": one.rotvec,
        "obs/ee_states": np.concatenate([one.position, one.rotvec], 1),
        "obs/gripper_states": one.fingers,
        "obs/joint_states": np.zeros((len(one), 7)),
        "obs/agentview_rgb": one.frames[:, ::-1],
        "obs/eye_in_hand_rgb": one.frames[:, ::-1, ::-1],
    }


LIBERO_SAYS = {
    "macros_image_convention": "opengl",
    "problem_info": {"language_instruction": "pick up the bowl"},
    "env_args": {"problem_name": "libero_tabletop_manipulation", "env_kwargs": {"robots": ["Panda"]}},
}


def isaac_lab(one: Moves) -> dict[str, Any]:
    """What Isaac Lab's recorder writes of its stacking task, with a camera."""
    return {
        "actions": one.osc,
        "processed_actions": np.zeros((len(one), 8)),
        "obs/actions": one.osc,
        "obs/eef_pos": one.position,
        "obs/eef_quat": one.wxyz,
        "obs/gripper_pos": one.fingers,
        "obs/joint_pos": np.zeros((len(one), 9)),
        "obs/object": np.zeros((len(one), 39)),
        "obs/table_cam": one.frames,
        "initial_state/articulation/robot/joint_position": np.zeros((1, 9)),
        "states/articulation/robot/joint_position": np.zeros((len(one), 9)),
    }


def isaac_lab_suction(one: Moves) -> dict[str, Any]:
    """The same of a robot with a suction cup, which has no fingers."""
    return {name: value for name, value in isaac_lab(one).items() if name != "obs/gripper_pos"}


def aloha_hdf5(home: Path) -> Path:
    """ALOHA's own files, one for each demonstration, whose pictures are JPEGs or PNGs filled up with zeros."""
    (home / "aloha").mkdir()
    for index, one in enumerate(EVERY):
        joints, encoded = aloha_joints(one), [png(frame) for frame in one.frames]
        padded = np.zeros((len(one), max(map(len, encoded)) + 9), np.uint8)
        for row, content in zip(padded, encoded):
            row[: len(content)] = np.frombuffer(content, np.uint8)
        with h5py.File(home / f"aloha/episode_{index}.hdf5", "w") as file:
            file.attrs["sim"] = False
            file["action"], file["observations/qpos"] = joints["action"], joints["observation.state"]
            file["observations/qvel"] = np.zeros((len(one), 14))
            file["observations/images/cam_high"] = padded
            file["compress_len"] = np.zeros((1, len(one)))
    return home / "aloha"


# LeRobot


def lerobot(
    make: Callable[[Moves], Mapping[str, Any]], names: Mapping[str, Any], cameras: Sequence[str] = (), **options: Any
) -> Callable[[Path], Path]:
    """A writer of a LeRobot dataset with the columns that `make` gives."""
    episodes = [
        {"task": "pick up the bowl", "columns": make(one), "images": {camera: one.frames for camera in cameras}}
        for one in EVERY
    ]
    return lambda home: write_lerobot(home / "set", episodes, names, **options)


def end_effector(one: Moves) -> dict[str, Any]:
    state = np.concatenate([one.position, one.rotvec, one.opening[:, None]], 1)
    return {"observation.state": state, "action": np.concatenate([state[1:], state[-1:]])}


EE_NAMES = ["ee.x", "ee.y", "ee.z", "ee.wx", "ee.wy", "ee.wz", "ee.gripper_pos"]
EE = {"observation.state": EE_NAMES, "action": EE_NAMES}


def libero_columns(one: Moves) -> dict[str, Any]:
    ee = np.concatenate([one.position, one.rotvec], 1)
    return {
        "observation.state": np.concatenate([ee, one.fingers], 1),
        "observation.states.ee_state": ee,
        "observation.states.joint_state": np.zeros((len(one), 7)),
        "observation.states.gripper_state": one.fingers,
        "action": one.osc,
    }


XYZ = ["x", "y", "z", "roll", "pitch", "yaw"]
LIBERO_NAMES = {
    "observation.state": {"motors": [*XYZ, "gripper", "gripper"]},
    "observation.states.ee_state": {"motors": XYZ},
    "observation.states.joint_state": {"motors": [f"joint_{i}" for i in range(7)]},
    "observation.states.gripper_state": {"motors": ["gripper", "gripper"]},
    "action": {"motors": [*XYZ, "gripper"]},
}


def droid_columns(one: Moves) -> dict[str, Any]:
    """DROID as it was converted to LeRobot: the state is of joints, the pose lies beside it."""
    joints = np.concatenate([np.sin(one.position), one.position, 1 - one.opening[:, None]], 1)
    joints = np.concatenate([joints[:, :6], one.yaw[:, None], joints[:, 6:]], 1)
    pose = np.concatenate([one.position, one.euler], 1)
    return {
        "observation.state": joints,
        "observation.state.cartesian_position": pose,
        "observation.state.gripper_position": 1 - one.opening,
        "observation.state.joint_position": joints[:, :7],
        "action": joints,
        "action.cartesian_velocity": 5 * one.moved,
        "action.gripper_position": one.closes,
    }


JOINTS7 = [f"joint_{i}" for i in range(7)]
DROID_NAMES = {
    "observation.state": {"axes": [*JOINTS7, "gripper"]},
    "observation.state.cartesian_position": {"axes": XYZ},
    "observation.state.joint_position": {"axes": JOINTS7},
    "action": {"axes": [*JOINTS7, "gripper"]},
}

SO101 = [f"{name}.pos" for name in "shoulder_pan shoulder_lift elbow_flex wrist_flex wrist_roll gripper".split()]


def so101_joints(one: Moves) -> dict[str, Any]:
    """An SO-101 in degrees; its leader arm is a step ahead."""
    rows = np.concatenate([90 * one.position, 20 * one.yaw[:, None], 50 * one.position[:, :1]], 1)
    rows = np.concatenate([rows, 40 * one.opening[:, None] + 2], 1)
    return {"observation.state": rows, "action": np.concatenate([rows[1:], rows[-1:]])}


ALOHA_ARM = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
ALOHA = {"motors": [f"{side}_{name}" for side in ("left", "right") for name in ALOHA_ARM]}


def aloha_joints(one: Moves) -> dict[str, Any]:
    """Two arms of six joints and a gripper; the actions are targets of the joints."""
    arm = np.concatenate([one.position, one.euler, one.opening[:, None]], 1)
    rows = np.concatenate([arm, arm[::-1]], 1)
    return {"observation.state": rows, "action": np.concatenate([rows[2:], rows[-1:], rows[-1:]])}


def franka_joints(one: Moves) -> dict[str, Any]:
    """Seven joints and two fingers without names: as many columns as our own pose has."""
    rows = np.concatenate([one.position, one.euler, one.yaw[:, None], 0.5 * one.fingers], 1)
    return {"observation.state": rows, "action": rows[:, :8]}


# RLDS


def rlds(name: str, make: Callable[[Moves], Mapping[str, Any]], **about: Any) -> Callable[[Path], Path]:
    """A writer of an RLDS dataset whose steps have the fields that `make` gives, all episodes in `train`."""

    def write(home: Path) -> Path:
        episodes = []
        for index, one in enumerate(EVERY):
            columns = {
                **make(one),
                "is_first": np.arange(len(one)) == 0,
                "is_last": np.arange(len(one)) == len(one) - 1,
            }
            told = {key: value(index) if callable(value) else value for key, value in about.items()}
            rows = [_row(columns, step) for step in range(len(one))]
            episodes.append({"steps": rows, "episode_metadata": {"file_path": f"/raw/{index}", **told}})
        return write_foreign(home, name, episodes)

    return write


def _row(columns: Any, step: int) -> Any:
    """One step of arrays in nested dictionaries; text is of every step."""
    if isinstance(columns, Mapping):
        return {key: _row(value, step) for key, value in columns.items()}
    return columns if isinstance(columns, str) else columns[step]


def write_foreign(home: Path, name: str, episodes: Sequence[Mapping[str, Any]]) -> Path:
    """A dataset as somebody's own TFDS builder writes it, all of it in `train`; features as in its first step."""
    import tensorflow_datasets as tfds

    first = {**episodes[0], "steps": episodes[0]["steps"][0]}
    described = {key: _feature(value) for key, value in first.items()}
    features = tfds.features.FeaturesDict({**described, "steps": tfds.features.Dataset(described["steps"])})
    made = type(
        name.title().replace("_", ""),
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("1.0.0"),
            "name": name,
            "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=features),
            "_split_generators": lambda self, _: {"train": enumerate(episodes)},
            "_generate_examples": None,
        },
        skip_registration=True,
    )(data_dir=str(home))
    made.download_and_prepare()
    return home / name / "1.0.0"


def _feature(value: Any) -> Any:
    import tensorflow_datasets as tfds

    if isinstance(value, Mapping):
        return {key: _feature(own) for key, own in value.items()}
    if isinstance(value, str):
        return tfds.features.Text()
    array = np.asarray(value)
    if array.dtype == np.uint8 and array.ndim == 3:
        return tfds.features.Image(shape=array.shape, dtype=np.uint8, encoding_format="png")
    return tfds.features.Tensor(shape=array.shape, dtype=array.dtype)


def bridge(one: Moves) -> dict[str, Any]:
    """Bridge: Euler angles, a gripper that 1 opens, a camera that some episodes lack, a text that one lacks."""
    state = np.float32(np.concatenate([one.position, one.euler, one.opening[:, None]], 1))
    black = np.zeros_like(one.frames)
    return {
        "observation": {
            "image_0": one.frames,
            "image_1": one.frames[:, ::-1] if one.seed % 2 else black,
            "state": state,
        },
        "action": np.float32(np.concatenate([one.moved, 1 - one.closes], 1)),
        "language_instruction": "" if one.seed == 3 else "put the spoon on the towel",
        "language_embedding": np.zeros((len(one), 64), np.float32),
    }


def fractal(one: Moves) -> dict[str, Any]:
    """RT-1: an action that is a dictionary, a state in two fields, the text inside of the observation."""
    closed = np.float32(1 - one.opening[:, None])
    return {
        "action": {
            "world_vector": np.float32(one.moved[:, :3]),
            "rotation_delta": np.float32(one.moved[:, 3:]),
            "gripper_closedness_action": np.sign(np.diff(closed, axis=0, append=closed[-1:]).round(2)),
            "terminate_episode": np.zeros((len(one), 3), np.int32),
        },
        "observation": {
            "image": one.frames,
            "base_pose_tool_reached": np.float32(np.concatenate([one.position, one.xyzw], 1)),
            "gripper_closed": closed,
            "natural_language_instruction": "pick the chocolate",
            "workspace_bounds": np.zeros((len(one), 3, 3), np.float32),
        },
        "reward": np.zeros(len(one), np.float32),
    }


def droid(one: Moves) -> dict[str, Any]:
    """DROID: rows of float64, an action beside a dictionary of further ones, a gripper that 1 closes."""
    pose, closed = np.concatenate([one.position, one.euler], 1), 1 - one.opening[:, None]
    return {
        "action": np.concatenate([pose, one.closes], 1),
        "action_dict": {
            "cartesian_position": pose,
            "cartesian_velocity": 5 * one.moved,
            "gripper_position": one.closes,
            "joint_position": np.zeros((len(one), 7)),
        },
        "observation": {
            "cartesian_position": pose,
            "gripper_position": closed,
            "joint_position": np.zeros((len(one), 7)),
            "exterior_image_1_left": one.frames,
            "wrist_image_left": one.frames[:, :, ::-1],
        },
        "language_instruction": "put the marker into the pot",
        "language_instruction_2": "",
        "discount": np.ones(len(one), np.float32),
    }


# Arrays


def named_arrays(home: Path) -> Path:
    """A folder of npz with names of somebody's own."""
    (home / "arrays").mkdir()
    for one in EVERY:
        arrays = {"tcp_pose": np.concatenate([one.position, one.xyzw], 1), "jaw": one.opening, "cmd": one.osc}
        arrays["rgb"] = one.frames
        np.savez(home / f"arrays/traj_{one.seed}.npz", **arrays)
    return home / "arrays"


def proprio_arrays(home: Path) -> Path:
    """A folder of npz whose `proprio` is of joints."""
    (home / "joints").mkdir()
    for one in EVERY:
        joints = franka_joints(one)
        np.savez(home / f"joints/traj_{one.seed}.npz", proprio=joints["observation.state"], action=joints["action"])
    return home / "joints"
