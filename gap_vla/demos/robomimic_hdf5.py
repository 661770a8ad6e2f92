"""HDF5 files of robomimic, MimicGen, LIBERO and Isaac Lab (`data/demo_i/{actions, obs/...}`), of ManiSkill (`traj_i`)
and of ALOHA (one demonstration a file).

robomimic's own states become POSE: its quaternions are xyzw, and those of POSE are wxyz. Others stay as they are.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.columns import DELTA, Columns
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, replacing
from gap_vla.demos.arrays import as_text, reading
from gap_vla.demos.source import HDF5, Arrays, Labels, Place, Recording, Source, files_in, natural

CAMERAS = {
    "image_primary": ("image_primary", "agentview_image", "agentview_rgb", "table_cam", "images/cam_high"),
    "image_wrist": (
        "image_wrist", "robot0_eye_in_hand_image", "eye_in_hand_rgb", "wrist_cam", "images/cam_right_wrist",
    ),
}  # fmt: skip
"""Cameras of ours to names of observations; the first one that is there is taken."""

WORDS = {
    "eef_pos": "position",
    "ee_pos": "position",
    "eef_quat": "quat_wxyz",
    "ee_ori": "rotvec",
    "ee_states": "position rotvec",
    "gripper_qpos": "gripper:{}",
    "gripper_states": "gripper:{}",
    "gripper_pos": "gripper:{}",
    "joint_pos": "joints:{}",
    "joint_states": "joints:{}",
}
"""Names of observations, behind the robot's, to what they hold. robosuite's quaternions are xyzw, Isaac Lab's wxyz."""

ROBOTS = ("robot0_", "robot0_right_", "robot0_left_", "robot1_", "robot2_", "")
"""What stands before the name of an arm's observation, in the order of the actions; Isaac Lab has one arm, unnamed."""

STATES = (("eef_pos", "eef_quat"), ("ee_pos", "ee_ori"), ("joint_pos",), ("joint_states",))
"""What makes a state, the first that is there; a gripper is added to it if there is one."""
GRIPPERS = ("gripper_qpos", "gripper_states", "gripper_pos")

DEMONSTRATIONS = ("traj_", "demo_", "episode_")
"""How groups of demonstrations are called in files without a group `data`."""

_SAID_ELSEWHERE = ("language_instruction", "file_path", "episode_id", "opening_unit")
"""Attributes of a demonstration that are said elsewhere."""


class RobomimicHDF5(Source):
    """Demonstrations of one file, or of all HDF5 files of a folder. `--episodes NAME` takes the filter `mask/NAME`."""

    kind = "robomimic_hdf5"
    STATES = ("observations/qpos", "obs/proprio", "obs/state", "obs/agent/qpos")
    ACTIONS = ("actions", "action")
    INSIDE = ("obs/", "observations/")
    HINT = ", or let robomimic's dataset_states_to_obs.py add observations"

    def find(self) -> tuple[list[Place], dict[str, list[str]]]:
        self.output = "labelled_demos" if self.path.is_dir() else None
        places: list[Place] = []
        filters: dict[str, list[str]] = {}
        for path in files_in(self.path, HDF5):
            with reading(path), h5py.File(path) as file:
                names = [name for name in file.get("data", file) if "data" in file or name.startswith(DEMONSTRATIONS)]
                places += [Place(path, name) for name in sorted(names, key=natural)] or [Place(path, path.stem)]
                for name, held in file.get("mask", {}).items():
                    listed = [as_text(one) for one in held[()]]
                    filters.setdefault(name, []).extend(listed)
                    if lost := [one for one in listed if one not in names]:
                        what = f"mask/{name} names {lost[0]}, which is not there"
                        self.notes.append(f"{path}: {what}; the others are read")
        return places, filters

    @contextlib.contextmanager
    def recording(self, place: Place) -> Iterator[Recording]:
        with h5py.File(place.file) as file:
            demo = demonstration(file, place.name)
            own, of_all = attributes(demo), attributes(file.get("data", file))
            names: list[str] = []
            demo.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            upside_down = of_all.get("macros_image_convention") == "opengl"
            yield Recording(
                Arrays(names, lambda name: self._array(demo[name], upside_down)),
                _instruction(own, of_all),
                demo["success"][()] if "success" in demo else own.get("success", of_all.get("success", True)),
                {
                    key: value
                    for key, value in own.items()
                    if key not in _SAID_ELSEWHERE and len(str(value)) <= 200  # robomimic has the model's XML in one
                },
            )

    def _array(self, array: h5py.Dataset, upside_down: bool) -> Any:
        robot, part = robot_and_part(array.name)
        if not is_plain(array.dtype):
            raise EpisodeError(f"{array.file.filename}, {array.name} holds {array.dtype}, neither numbers nor text")
        if upside_down and array.ndim == 4 and array.dtype == np.uint8:
            return array[()][:, ::-1]
        return np.roll(array[()], 1, axis=1) if self._turns_quaternions and robot and part == "eef_quat" else array

    def state_names(self) -> list[str]:
        for parts in STATES:
            arms = [robot for robot in ROBOTS if all(f"obs/{robot}{part}" in self.names for part in parts)]
            if arms:
                wanted = itertools.product(arms, (*parts, *GRIPPERS))
                return [name for name in (f"obs/{arm}{part}" for arm, part in wanted) if name in self.names]
        return self._first(self.STATES)

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        stated = "columns" if names == ["obs/state"] else "action_columns" if names == self.action else ""
        if (text := self._attributes.get(stated)) and Columns.parse(text).width == sum(widths):
            return Columns.parse(text)
        if names == self.action:
            return self._columns_of_actions(sum(widths))
        if not any(robot_and_part(name)[1] in WORDS for name in names):
            return None
        arms: dict[str, list[str]] = {}
        for name, width in zip(names, widths):
            robot, part = robot_and_part(name)
            as_it_is = robot and part == "eef_quat" and not self._turns_quaternions
            word = "quat_xyzw" if as_it_is else WORDS.get(part, "other:{}")
            arms.setdefault(robot, []).append(word.format(width))
        return Columns.parse(" | ".join(map(" ".join, arms.values())))

    def _columns_of_actions(self, width: int) -> Columns | None:
        """Movements of robosuite's end effectors, unless the file says that joints are moved."""
        arms = sum(f"obs/{robot}eef_pos" in self.names for robot in ROBOTS if robot) or "obs/ee_pos" in self.names
        without_gripper = Columns((DELTA.arms[0][:2],))
        fitting = [one.times(arms) for one in (DELTA, without_gripper) if width == one.width * arms]
        return fitting[0] if fitting and not _moves_joints(self._attributes) else None

    @property
    def _turns_quaternions(self) -> bool:
        """Whether robosuite's quaternions become wxyz: unless the user named or described the state, or a preset
        says that they are xyzw."""
        asked = self.fields.state or self.fields.columns
        return not asked and "xyzw" not in self._resolved.columns

    def cameras_of(self, first: Recording) -> dict[str, str]:
        found = {camera: self._first(names) for camera, names in CAMERAS.items()}
        return {camera: names[0] for camera, names in found.items() if names}

    @property
    def _attributes(self) -> dict[str, Any]:
        """What the file says of all demonstrations."""
        with h5py.File(self.places[0].file) as file:
            return attributes(file.get("data", file))

    @property
    def about(self) -> dict[str, Any]:
        said = self._attributes
        found = {**(_json(said.get("env_args")).get("env_kwargs") or {}), **said}
        return {key: found[key] for key in ("task", "variant", "camera") if isinstance(found.get(key), str)}

    @property
    def fps(self) -> float | None:
        said = self._attributes
        rate = said.get("control_hz") or (_json(said.get("env_args")).get("env_kwargs") or {}).get("control_freq")
        return float(rate) if rate else None

    def identity(self) -> dict[str, Any]:
        told = {key: value for key, value in self.about.items() if key in ("task", "camera") and value != "near"}
        return super().identity() | told

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Copies the file, or the files of the folder, and adds `rho` and `change_point` to each demonstration."""
        with replacing(out) as new:
            if self.output:
                new.mkdir()
                mark(new, self.output)
            for file in {place.file for place in self.places}:
                copy = shutil.copyfile(file, new / file.name if self.output else new)
                with h5py.File(copy, "r+") as written:
                    for place, own in zip(self.places, labels):
                        demo = demonstration(written, place.name)
                        for name, value in own.items() if place.file == file else ():
                            if name in demo:
                                del demo[name]
                            demo.create_dataset(name, data=value)
                    written.get("data", written).attrs["annotator"] = json.dumps(annotator)


def demonstration(file: h5py.File, name: str) -> h5py.Group:
    """The group of a demonstration; the file itself if it is one."""
    held = file.get("data", file)
    return held[name] if name in held else file


def robot_and_part(name: str) -> tuple[str, str]:
    """`robot0_` and `eef_pos` of `obs/robot0_eef_pos`."""
    last = name.rpartition("/")[2]
    robot = max((one for one in ROBOTS if last.startswith(one)), key=len)
    return robot, last.removeprefix(robot)


def attributes(item: h5py.Group) -> dict[str, Any]:
    """The attributes that are one number, truth value or text."""
    found = {}
    for name in item.attrs:
        with contextlib.suppress(OSError, TypeError):  # of a kind that h5py does not know
            if not is_plain(item.attrs.get_id(name).dtype):
                continue
            value = item.attrs[name]
            value = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
            if isinstance(value, str | bytes | bool | int | float):
                found[name] = as_text(value) if isinstance(value, bytes) else value
    return found


def is_plain(kind: np.dtype) -> bool:
    """Whether values are numbers or text; others might be taken for pointers (opaque data tagged `NUMPY:O`)."""
    return kind.kind in "biufSU" or h5py.check_string_dtype(kind) is not None or h5py.check_vlen_dtype(kind) is not None


def _moves_joints(said: Mapping[str, Any]) -> bool:
    """Whether robosuite's controllers of the arms, as `env_args` has them, move joints."""
    found = (_json(said.get("env_args")).get("env_kwargs") or {}).get("controller_configs") or {}
    controllers = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict)]
    for parts in [one.get("body_parts", {}) for one in controllers]:  # of robosuite 1.5
        arms = {**parts, **parts.get("arms", {})}
        controllers += [arms[side] for side in ("right", "left") if side in arms]
    return any(str(one.get("type")).startswith("JOINT") for one in controllers)


def _instruction(own: Mapping[str, Any], of_all: Mapping[str, Any]) -> str:
    """An instruction of the demonstration, or else of all: LIBERO's is in `problem_info`, robosuite's in `ep_meta`."""
    told = (
        own.get("language_instruction"),
        _json(own.get("ep_meta")).get("lang"),
        of_all.get("language_instruction"),
        _json(of_all.get("env_args")).get("lang"),
        _json(of_all.get("problem_info")).get("language_instruction"),
    )
    return next((text for text in map(as_text, told) if text.strip()), "")


def _json(text: Any) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError):
        return dict(json.loads(text))
    return {}
