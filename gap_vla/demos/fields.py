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


# What follows leaves with the readers of 0.2.

import contextlib  # noqa: E402
import re  # noqa: E402
from collections.abc import Collection, Iterable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from gap_vla.core.episode import LARGEST_ACTION, EpisodeError, nameless  # noqa: E402
from gap_vla.core.foreign import finite, one_line, refusing  # noqa: E402
from gap_vla.demos.content import listed  # noqa: E402

IMAGE_NAMES = ("image_primary", "image_wrist")

_CAMERA = re.compile(r"image_\w+", re.ASCII)

ACTION_LIMIT = 1.0
"""An Episode's actions lie in [-1, 1] unless the reader's option `action_limit` says otherwise."""

_TRUE, _FALSE = ("true", "yes", "1", "success", "t", "y"), ("false", "no", "0", "failure", "f", "n")


def as_rows(value: Any, where: str) -> np.ndarray:
    """float32[T, width]. Raises EpisodeError: no such numbers, or one that is not finite in float32."""
    rows = np.asarray(value)
    if rows.dtype == object and rows.ndim == 2:  # as nulls make it
        for step, column in [place for place in np.ndindex(rows.shape) if rows[place] is None][:1]:
            raise EpisodeError(f"{where} is missing at step {step}, column {column}; repair or drop the episode")
    if rows.ndim != 2 or not rows.shape[1] or rows.dtype.kind not in "fiu":
        raise EpisodeError(
            f"{where} is {rows.dtype}{list(rows.shape)}, not numbers of shape (T, width); store one row per step"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        single = rows.astype(np.float32)
    if not np.isfinite(single).all():
        step, column = np.argwhere(~np.isfinite(single))[0]
        raise EpisodeError(
            f"{where} is NaN or infinite at step {step}, column {column} ({rows[step, column]}, in float32); repair or "
            "drop the episode"
        )
    return single


def as_actions(value: Any, limit: float | None, where: str) -> np.ndarray:
    """float32[T, A] of numbers in [-limit, limit], 0.1 % more for rounding; None: in the robot's own units.

    Raises EpisodeError: as `as_rows`, or a number beyond the limit.
    """
    actions = as_rows(value, where)
    beyond = np.abs(actions) > (np.inf if limit is None else limit * 1.001)
    if beyond.any():
        step, column = np.argwhere(beyond)[0]
        raise EpisodeError(
            f"{where} is {actions[step, column]:g} at step {step}, column {column}; actions lie in [-{limit:g}, "
            f"{limit:g}]: rescale them, or build a dataset with --reader action_limit=… that states their largest value"
        )
    return actions


def checked_limit(limit: Any) -> float | None:
    """The reader's option `action_limit`. Raises EpisodeError: neither a positive number nor null."""
    return None if limit is None else finite("action_limit (null: any)", limit, 1e-12, LARGEST_ACTION, EpisodeError)


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of these endings, in large or small letters, by name; none that are hidden.

    Raises EpisodeError: others lie in folders of it, and would be left out; or it is an RLDS dataset, or part of one.
    """
    every = list(listed(folder))
    if found := sorted(path for path in every if path.parent == folder and ".tfrecord" in path.name):
        if (folder / "features.json").is_file():
            raise EpisodeError(f"{folder} is an RLDS dataset already; annotate it, or train on it as it is (data.rlds)")
        raise EpisodeError(
            f"{folder} holds {found[0].name}: it is an RLDS dataset that lacks features.json, as a killed conversion "
            "leaves it; give that command again"
        )
    of_these = (path for path in every if path.suffix.lower() in suffixes)
    found = sorted(of_these, key=lambda path: (path.parent != folder, path))
    if found and found[0].parent == folder != found[-1].parent:
        raise EpisodeError(f"{folder}: {found[-1]} lies in a folder of its own; put all demonstrations into one folder")
    return [path for path in found if path.parent == folder]


def tell_others(folder: Path, files: Collection[Path], what: str) -> None:
    """Says what lies beside the `files` of a folder, in words of what is done to these alone."""
    if more := sorted(path.name for path in {*folder.iterdir()} - {*files} if path.name[0] != "."):
        kinds = " and ".join(sorted({path.suffix[1:].lower() for path in files}))
        but = f"nor anything else but the {kinds} ({len(more)} in all)"
        print(f"note: {one_line(more[0], 60)} of {folder} is not {what}, {but}", flush=True)


def require_cameras(names: Sequence[str], where: str) -> None:
    """Raises EpisodeError: a name is no camera's, and readers of a dataset would take it for something else; or it is
    there twice, and one would be lost.
    """
    for name in names:
        if not _CAMERA.fullmatch(name):
            shown = one_line(repr(name), 60)
            named = (
                "an array of the source first, then its camera: image_ and"
                if "image_keys" in where
                else "it image_ and"
            )
            raise EpisodeError(f"{where}: camera {shown}; name {named} letters, digits or underscores")
        if names.count(name) > 1:
            raise EpisodeError(f"{where}: {name} is there twice; say with image_keys which pictures it is")


def as_names(value: Any, where: str) -> np.ndarray:
    """A phase's name per step. Raises EpisodeError: it is no list of names."""
    if isinstance(value, list | tuple) and (lost := nameless(value)):
        raise EpisodeError(f"{where} is {value[lost[0]]} at step {lost[0]}; give each step a name")
    names = np.asarray(value)
    if names.ndim != 1 or names.dtype.kind not in "USiub":
        raise EpisodeError(f"{where} is {names.dtype}{list(names.shape)}, not one name per step; store text (T)")
    with refusing(where, "store text of UTF-8", EpisodeError):
        return np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names.astype(str)


def as_text(value: Any, where: str) -> str:
    """An instruction. Raises EpisodeError: something other than text."""
    text = _plain(value)
    if not isinstance(text, str):
        raise EpisodeError(f"{where}: the instruction is {one_line(repr(text), 60)}, not text; store text")
    return text


def as_instruction(own: Any, otherwise: Any, where: str) -> str:
    """An episode's own instruction, or another where it has none or a blank one. Raises EpisodeError: as `as_text`."""
    text = as_text("" if own is None else own, where)
    return text if text.strip() else as_text(otherwise, where) or text


def is_blank(text: Any) -> bool:
    """Whether it is text that says nothing."""
    word = _plain(text)
    return isinstance(word, str) and not word.strip()


def as_truths(value: Any) -> np.ndarray:
    """bool where all are 0 or 1; anything else stays as it is, for the check that names its place."""
    given = np.asarray(value)
    return given.astype(bool) if given.dtype.kind in "biuf" and np.isin(given, (0, 1)).all() else given


def as_truth(value: Any, where: str) -> bool:
    """What a file says of success: a truth value, 0 or 1, or a word for it. Raises EpisodeError: none of these."""
    word = _plain(value)
    if isinstance(word, (bool, int, float)) and word in (0, 1):
        return bool(word)
    if isinstance(word, str) and word.strip().lower() in _TRUE + _FALSE:
        return word.strip().lower() in _TRUE
    raise EpisodeError(f"{where} is {one_line(repr(word), 60)}, neither true nor false; store a truth value")


def decoded(value: Any) -> str:
    """Text that is stored as bytes or not. Raises UnicodeError: it is no text."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    text.encode()  # bytes that are no text come out of h5py as halves of surrogate pairs
    return text


def _plain(value: Any) -> Any:
    """What an array of one element holds, bytes as text if they are text."""
    plain = value.item() if isinstance(value, (np.generic, np.ndarray)) and np.size(value) == 1 else value
    with contextlib.suppress(UnicodeDecodeError):
        return plain.decode() if isinstance(plain, bytes) else plain
    return plain


def picture_size(shape: Sequence[int], dtype: np.dtype, where: str) -> tuple[int, int]:
    """Height and width of the pictures of a recording. Raises EpisodeError: they are not RGB bytes, as `as_frames`."""
    if dtype != np.uint8 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise EpisodeError(f"{where} is {dtype}{list(shape)}, not uint8[T, h, w, 3]; store pictures as RGB bytes")
    return (shape[1], shape[2]) if shape[3] == 3 else (shape[2], shape[3])


def require_one_size(sizes: Iterable[tuple[str, Mapping[str, tuple[int, ...]]]]) -> None:
    """Raises EpisodeError: of places with the pictures' sizes by camera, one has others than the first."""
    first: Mapping[str, tuple[int, ...]] | None = None
    for where, found in sizes:
        first = found if first is None else first
        if found != first:
            told = [", ".join(f"{key} {h}x{w}" for key, (h, w) in each.items()) or "none" for each in (found, first)]
            raise EpisodeError(
                f"{where}: pictures are {told[0]}, the first episode's {told[1]}; a dataset has one layout: make two "
                "of them or repair the episode"
            )


def as_frames(value: Any) -> np.ndarray:
    """uint8[T, h, w, 3] from uint8 frames, channels first or last; anything else stays, for `Episode.validate`."""
    frames = np.asarray(value)
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(frames)


def resized(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Frames of another height and width (Lanczos, antialiased), or unchanged."""
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    height, width = size
    from PIL import Image  # of an extra; the names of readers are known without

    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames])


def require_spelling(found: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises EpisodeError: a known name is not among those that were found, and one in other letters, with other signs
    between them or with `is_` before it is."""
    found = sorted(found)
    meant = {_letters(key): key for key in known if key not in found}
    for name in found:
        if key := meant.get(_letters(name)):
            raise EpisodeError(f"{where}: {one_line(name, 60)!r} is not read; if it is {key!r}, call it so")


def _letters(name: str) -> str:
    return re.sub("^is_|[^a-z0-9]", "", name.lower())
