"""Which of somebody's arrays are the state, the actions, the pictures and the instruction, said the same everywhere.

On the command line `--layout libero` or `--state ee_pos+ee_ori --columns "position rotvec"`, in a configuration
`data.fields.layout`. What is said explicitly wins over the preset, and the preset over what the file declares itself.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from gap_vla.core.columns import Columns
from gap_vla.core.config import STRICT, choose
from gap_vla.core.errors import ConfigError


@dataclass(frozen=True, config=STRICT)
class Fields:
    """Names of arrays in files of others; what is empty comes from the preset `layout`, or from the file."""

    layout: str = ""
    """Preset of public data: robomimic, libero, isaac_lab, bridge, droid, fractal, aloha, gap and others."""
    state: str = ""
    """Array of the robot's state; several joined by `+` stand side by side."""
    action: str = ""
    """Array of the actions; several joined by `+` stand side by side."""
    images: dict[str, str] | None = None
    """Camera to array of pictures, as {"image_primary": "agentview_rgb"}; {} leaves all pictures out."""
    instruction: str = ""
    """Field of the instruction, or `text=` and the instruction itself."""
    columns: str = ""
    """What the columns of the state are, as "position quat_wxyz gripper:2" or "joints:6 gripper_01"."""
    action_columns: str = ""
    """What the columns of the actions are."""
    robot: str = ""
    """Robot whose joints the state holds, so101 or another name, or the path of a URDF or MJCF; of several arms one for
    all, or one each, separated by commas; `none`: no poses are made of joints."""
    joints: str = ""
    """Which joints the columns are, as "waist,shoulder,elbow"; empty: all of the robot."""
    tool: str = ""
    """Tool point of the robot; empty: the usual one."""
    episodes: str = ""
    """Episodes that are read: "0:10,12", or the name of a filter of the file; empty: all."""
    image_size: tuple[int, int] | None = None
    """Height and width to which pictures are resized."""

    def __post_init__(self) -> None:
        if self.layout:
            choose(self.layout, list(PRESETS), "layout")
        for text in filter(None, (self.columns, self.action_columns)):
            Columns.parse(text)
        for camera in self.images or {}:
            if not camera.startswith("image_"):
                raise ConfigError(f"images: camera {camera!r}; its name begins with image_, as image_primary")

    def of(self, kind: str) -> Fields:
        """These fields, completed by the preset; `kind` is a name in `gap_vla.demos.source.READERS`."""
        presets = PRESETS[self.layout] if self.layout else {}
        said: dict[str, Any] = {}
        for fields in (presets.get("", {}), presets.get(kind, {}), explicit(self)):
            said |= fields
        return Fields(**said)

    @property
    def text(self) -> str:
        """The instruction itself, if `instruction` gives one and not the name of a field."""
        return self.instruction.removeprefix("text=") if self.instruction.startswith("text=") else ""


AS_DECLARED = Fields()
"""Nothing is said: what the files declare counts."""


def explicit(fields: Fields) -> dict[str, Any]:
    """What the user said, without what is left at its default."""
    return {key: value for key, value in vars(fields).items() if value not in ("", None) and key[0] != "_"}


_EULER = {"columns": "position euler_xyz gripper_01", "action_columns": "position euler_xyz gripper_01"}

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "gap": {
        "": {"columns": "position quat_wxyz gripper:2", "action_columns": "position rotvec gripper_01"},
        "rlds": {"state": "observation/proprio"},
    },
    "robomimic": {
        "": {"columns": "position quat_xyzw gripper:2", "action_columns": "position rotvec gripper_01"},
        "robomimic_hdf5": {"columns": "position quat_wxyz gripper:2"},
    },
    "libero": {
        "": {"columns": "position rotvec gripper:2", "action_columns": "position rotvec gripper_01"},
        "robomimic_hdf5": {
            "state": "obs/ee_pos+obs/ee_ori+obs/gripper_states",
            "images": {"image_primary": "obs/agentview_rgb", "image_wrist": "obs/eye_in_hand_rgb"},
        },
        "rlds": {
            "state": "observation/state",
            "images": {"image_primary": "observation/image", "image_wrist": "observation/wrist_image"},
        },
    },
    "isaac_lab": {
        "": {"columns": "position quat_wxyz gripper:2"},
        "robomimic_hdf5": {"state": "obs/eef_pos+obs/eef_quat+obs/gripper_pos"},
    },
    "bridge": {
        "": _EULER,
        "rlds": {"state": "observation/state", "images": {"image_primary": "observation/image_0"}},
    },
    "bridge_padded": {
        "": {**_EULER, "columns": "position euler_xyz other:1 gripper_01"},
        "rlds": {"state": "observation/state"},
    },
    "droid": {
        "": _EULER,
        "rlds": {
            "state": "observation/cartesian_position+observation/gripper_position",
            "action": "action_dict/cartesian_velocity+action_dict/gripper_position",
            "images": {
                "image_primary": "observation/exterior_image_1_left",
                "image_wrist": "observation/wrist_image_left",
            },
        },
        "lerobot": {
            "state": "observation.state.cartesian_position+observation.state.gripper_position",
            "action": "action.cartesian_velocity+action.gripper_position",
            "images": {
                "image_primary": "observation.images.exterior_1_left",
                "image_wrist": "observation.images.wrist_left",
            },
        },
    },
    "fractal": {
        "": {"columns": "position quat_xyzw gripper_01", "action_columns": "position euler_xyz gripper_01"},
        "rlds": {
            "state": "observation/base_pose_tool_reached+observation/gripper_closed",
            "action": "action/world_vector+action/rotation_delta+action/gripper_closedness_action",
            "images": {"image_primary": "observation/image"},
            "instruction": "observation/natural_language_instruction",
        },
    },
    "aloha": {
        "": {
            "columns": "joints:6 gripper_01 | joints:6 gripper_01",
            "action_columns": "joints:6 gripper_01 | joints:6 gripper_01",
            "robot": "viperx",
        },
        "robomimic_hdf5": {
            "state": "observations/qpos",
            "images": {"image_primary": "images/cam_high", "image_wrist": "images/cam_right_wrist"},
        },
        "rlds": {
            "state": "observation/state",
            "images": {"image_primary": "observation/cam_high", "image_wrist": "observation/cam_right_wrist"},
        },
        "lerobot": {
            "images": {
                "image_primary": "observation.images.cam_high",
                "image_wrist": "observation.images.cam_right_wrist",
            },
        },
    },
    "quaternion_wxyz": {"": {"columns": "position quat_wxyz gripper_01"}},
    "quaternion_xyzw": {"": {"columns": "position quat_xyzw gripper_01"}},
}
"""Layout to kind of file ("": every kind) to what is where. Columns are those of one arm, unless `|` stands in them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--layout`, `--state`, … to a command; `fields_from` reads them."""
    group = parser.add_argument_group("what is where in the source (default: what its files declare)")
    add = group.add_argument
    add("--layout", default="", metavar="NAME", help=f"preset: {', '.join(PRESETS)}")
    add("--state", default="", metavar="A+B", help="array of the state; + joins several")
    add("--action", default="", metavar="A+B", help="array of the actions; + joins several")
    add("--image", action=_Images, metavar="NAME=KEY", help="camera, as image_primary=agentview_rgb; or none")
    add("--instruction", default="", metavar="FIELD", help="field of the instruction, or text=... for all episodes")
    add("--columns", default="", metavar="TEXT", help='of the state, as "position quat_wxyz gripper:2" or "joints:6"')
    add("--action-columns", default="", metavar="TEXT", help="of the actions, in the same words")
    add("--robot", default="", metavar="NAME|PATH", help="poses from joints: so101, aloha, panda, ..., a URDF or MJCF")
    add("--joints", default="", metavar="A,B", help="which joints of the robot the state holds (default: all)")
    add("--tool", default="", metavar="NAME", help="tool point of the robot (default: the usual one)")
    add("--episodes", default="", metavar="SELECTION", help='as "0:10,12", or the name of a filter; default: all')
    add("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="resize pictures")


def fields_from(options: argparse.Namespace) -> Fields:
    """The fields that the options of `add_options` say."""
    values = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(Fields)}
    size = values["image_size"] and tuple(values["image_size"])
    return Fields(**{**values, "images": options.image, "image_size": size})


class _Images(argparse.Action):
    """`--image NAME=KEY`, once a camera, into a dictionary; `--image none` makes it empty."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, equals, key = values.partition("=")
        if not (equals and name and key) and values != "none":
            parser.error(f"argument {option_string}: {values!r} is not NAME=KEY")
        given = getattr(namespace, self.dest) or {}
        setattr(namespace, self.dest, {**given, name: key} if equals else {})
