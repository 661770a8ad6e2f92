"""What `meta/info.json` of a LeRobot dataset says of its features, compared with itself and with the columns."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, one_line, refusing, shown
from gap_vla.demos.beside import ENDS, FLAGS, require_rows, tells
from gap_vla.demos.fields import as_truth
from gap_vla.demos.layout import METRES, UNIT, UNITS, StateLayout

MOST = 2**31
"""No dataset has more episodes, files, chunks or steps than this."""

NUMBERS = re.compile(r"float(16|32|64)|u?int(8|16|32|64)")

_FIELD = re.compile(r"\{(\w+)(?::0?\d{1,2}d?)?\}")


@dataclasses.dataclass(frozen=True)
class Feature:
    """A column of the dataset: its kind (`float32`, `image`, `video`, `depth map`), the shape of one row of it, and
    what else is said of it."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]  # of its numbers, if each has one
    said: Mapping[str, Sequence[Any]]  # by key, at each place that says it; size and pace in `info` as `video.…`
    keys: frozenset[str]  # of these, all but lists of names
    unclear: bool  # its names are none that can be given to its numbers


@dataclasses.dataclass(frozen=True)
class Description:
    """`meta/info.json`, checked."""

    root: Path
    version: str  # "v2" or "v3"
    features: Mapping[str, Feature]
    data_path: str  # where files lie, with fields in braces
    video_path: str
    chunks_size: int  # v2: episodes per folder
    episodes: int | None  # how many there are; None: not said
    steps: int | None
    fps: float
    said: Mapping[str, Any]  # all of it

    def file(self, template: str, **fields: Any) -> Path:
        """A file of the dataset. Raises EpisodeError: the template names other fields, or leads out of the folder."""
        left = _FIELD.sub("", template)
        if "{" in left or "}" in left or not set(_FIELD.findall(template)) <= set(fields):
            known = f"known are {', '.join(fields)}, of at most 99 digits as {{{next(iter(fields))}:03d}}"
            raise EpisodeError(f"{self.root}/meta/info.json: path {template!r:.100}: {known}")
        path = self.root / template.format(**fields)
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(self.root)):  # its files may be links
            raise EpisodeError(f"{self.root}/meta/info.json: path {template!r:.100} leads out of the dataset")
        return path


def read_description(root: Path) -> Description:
    """The dataset's `meta/info.json`. Raises EpisodeError: there is none, or it is of another version or kind."""
    file = root / "meta" / "info.json"
    if not file.exists():
        raise EpisodeError(f"{root}: no meta/info.json; give the folder of one LeRobot dataset")
    info = Section.read(file, EpisodeError)
    version = info.text("codebase_version", "unknown")
    if not re.fullmatch(r"v[23]\.\d+", version):
        raise EpisodeError(f"{file}: LeRobot format {version!s:.40}; v2 and v3 are read: convert it with LeRobot")
    features = info.section("features")
    found = {}
    for name in features.values:
        feature = features.section(name)
        shape = feature.list("shape", lambda part, key: part.whole(key, 0, MOST))
        about = [feature.section(key).values for key in ("info", "video_info") if feature.values.get(key)]
        said = [*feature.values.items()]
        said += [(f"video.{key}" if key in _OF_FILM else key, one) for part in about for key, one in part.items()]
        dtype = feature.text("dtype")
        if re.fullmatch(r"(float|u?int)\d+", dtype) and not NUMBERS.fullmatch(dtype):
            raise EpisodeError(f"{feature.name('dtype')} is {shown(dtype)}, which no number is; correct it")
        names = feature.values.get("names")
        places = [*names.values()] if isinstance(names, Mapping) else []
        if len(places) > 1 and all(type(one) is int for one in places) and sorted(places) != [*range(len(places))]:
            raise EpisodeError(
                f"{feature.name('names')} gives its columns the places {one_line(str(sorted(places)), 80)}, each must "
                "be there once; correct them"
            )
        parts = [*names.items()] if isinstance(names, Mapping) else []
        own, unclear = _names(names, shape)
        beside = {key for key, part in parts if not isinstance(part, list | int | None)}
        keys = {key for key, _ in said} | (set() if unclear else beside)
        more: dict[str, list[Any]] = {}
        for key, one in (*said, *parts):
            more.setdefault(key, []).append(one)
        depth = _is_depth(more, feature.where)
        found[name] = Feature("depth map" if depth else dtype, shape, own, more, frozenset(keys), unclear)
    return Description(
        root,
        version[:2],
        found,
        info.text("data_path"),
        info.text("video_path") if "video" in {feature.dtype for feature in found.values()} else "",
        info.whole("chunks_size", 1, MOST) if version[:2] == "v2" else 1,
        info.whole("total_episodes", 0, MOST) if "total_episodes" in info else None,
        info.whole("total_frames", 0, MOST) if "total_frames" in info else None,
        info.finite("fps", 0.01, 1e5),
        info.values,
    )


_OF_FILM = ("fps", "height", "width", "channels")
"""What `info` may call without `video.` before it."""


def _is_depth(said: Mapping[str, list[Any]], where: str) -> bool:
    """Raises EpisodeError: one place says that it is a depth map, another that it is none."""
    flags = {
        f"{key} {shown(one)}": as_truth(one, f"{where}: is_depth_map")
        for key in ("video.is_depth_map", "is_depth_map")
        for one in said.get(key, ())
        if one is not None
    }
    if len({*flags.values()}) > 1:
        raise EpisodeError(f"{where} says {' and '.join(flags)}; correct one of them")
    return any(flags.values())


def _names(said: Any, shape: tuple[int, ...]) -> tuple[tuple[str, ...], bool]:
    """The names of a feature's numbers: in a list, under a key, by parts or to their places; none, if all have one.
    And whether there are others, which cannot be given to its numbers."""
    while isinstance(said, Mapping | list) and len(said) == 1:
        (said,) = said.values() if isinstance(said, Mapping) else said
    if said is None or said == [] or said == {} or (isinstance(said, str) and re.fullmatch(r"[\w./-]+", said)):
        return (), False  # none, or the name of the axis
    if isinstance(said, Mapping):
        parts = [*said.values()]
        placed = all(type(part) is int for part in parts) and sorted(parts) == [*range(len(parts))]
        ordered = [*said] != sorted(said)  # by the alphabet, parts may stand otherwise than the columns
        lists = {key: part for key, part in said.items() if ordered and isinstance(part, list)}
        joined = [f"{key}.{name}" for key, part in lists.items() for name in part]
        joined = sorted(said, key=said.__getitem__) if placed else joined
        said = joined if (len(joined),) == shape else ()
    if isinstance(said, list) and all(isinstance(name, str) for name in said):
        return tuple(said), False
    return (), True


def require_metres(said: Mapping[str, Sequence[Any]], layout: StateLayout, where: str) -> None:
    """Compares what is said of a state's unit; a note where it is no metre and no other unit that is known.

    Raises EpisodeError: its numbers are in another unit than m, or as `require_unpacked`.
    """
    for key, value in ((unit, value) for unit in UNITS for value in said.get(unit, ())):
        items = value if isinstance(value, list) else [value]
        if len(items) >= layout.width and len(items) % layout.width == 0:  # one a column
            items = [item for column, item in enumerate(items) if layout.takes(column % layout.width)]
        words = [one for item in items for one in _words(item)]
        for word in words:
            if UNIT.search(word) or words in (["in"], ["ft"]):
                what = f"{where} says that it is in {one_line(word, 40)!r}, it is read as m and rad"
                raise EpisodeError(f"{what}; convert it, and the {key}")
        if other := [word for word in words if word not in _KNOWN]:
            print(f"note: {where}: its {key} {one_line(other[0], 40)!r} is not read, it is taken as m", flush=True)
    require_unpacked(said, where)


def require_unpacked(said: Mapping[str, Sequence[Any]], where: str) -> None:
    """Raises EpisodeError: numbers of a state or action are to be multiplied or moved first."""
    for key, value in ((packed, value) for packed in PACKED for value in said.get(packed, ())):
        if value is not None and any(
            _number(one) != PACKED[key] for one in (value if isinstance(value, list) else [value])
        ):
            what = f"{where} says {key} {one_line(str(value), 40)}, which is not applied"
            raise EpisodeError(f"{what}; write the numbers themselves, and leave it out")


PACKED = {"scale_factor": 1.0, "add_offset": 0.0}
"""Where it is said that numbers are packed, and what says that they are not."""

_KNOWN = (*METRES, "rad", "radian", "radians", "1", "none", "unitless", "quaternion", "quat")
"""Words in which a state's unit may be said."""


def _words(unit: Any) -> list[str]:
    return [] if unit is None else re.findall(r"[^\s,;/+&|()\[\]]+", str(unit).lower())


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def require_pace(feature: Feature, fps: float, where: str) -> None:
    """Raises EpisodeError: it has other steps a second than the dataset, by more than 1 %."""
    for own in feature.said.get("fps", ()):
        if own is not None and not abs((_number(own) or 0.0) - fps) <= fps / 100:
            raise EpisodeError(f"{where} has fps {one_line(str(own), 40)}, the dataset {fps:g}; correct one of them")


def require_single(feature: Feature, where: str) -> None:
    """Raises EpisodeError: by its shape, a column that LeRobot itself fills has several numbers a step."""
    if math.prod(feature.shape) != 1:
        raise EpisodeError(f"{where} has the shape {list(feature.shape)}, it is one number a step; correct it")


_AXES = {word: word for word in ("height", "width", "channels")}
_AXES |= {"h": "height", "w": "width", "channel": "channels", "c": "channels", "rgb": "channels"}
"""What the axes of a picture are called."""

_NOT_OF_RGB = ("info", "video_info", "video.pix_fmt")
"""What is looked at part by part, and how a film is stored, which ffmpeg decodes to RGB."""

_BGR = re.compile("(?<![a-z])(bgr|b(lue)?[^a-z]+g(reen)?[^a-z]+r(ed)?)(?![a-z])")


def require_pictures(feature: Feature, fps: float, where: str) -> None:
    """Says where a camera's shape, which pictures and films are held to, is another than its `info` and names say.

    Raises EpisodeError: its pictures have neither 1, 3 nor 4 channels, or are BGR.
    """
    shape = feature.shape
    stated = {key: str(said).lower() for key, said in feature.said.items() if key not in _NOT_OF_RGB}
    if told := [key for key, said in stated.items() if _BGR.search(f"{key.lower()} {said}") and "rgb" not in said]:
        by = "names" if told == ["names"] else one_line(told[0], 40)
        raise EpisodeError(f"{where} is BGR by its {by}, pictures are read as RGB; exchange the channels")
    if len(shape) == 3 and not {shape[0], shape[-1]} & {1, 3, 4}:
        raise EpisodeError(f"{where} has the shape {list(shape)}, no 1, 3 or 4 channels first or last; correct it")
    sides = dict(zip(("height", "width", "channels"), axes_of(shape)))
    for name, right in (*sides.items(), ("fps", fps)):
        for said in dict.fromkeys(map(str, feature.said.get(f"video.{name}", ()))):
            if said != "None" and not abs((_number(said) or 0.0) - right) <= right / 100:
                told_of = f"its video.{name} is {one_line(said, 40)}, {'fps' if name == 'fps' else 'its shape'} says"
                print(f"note: {where}: {told_of} {right:g}, which is taken", flush=True)
    first = len(shape) == 3 and shape[-1] not in (1, 3, 4)
    axes = tuple(_AXES.get(name.lower()) for name in feature.names)
    if None not in axes and len(axes) == 3 and axes != (*["channels"][:first], "height", "width", "channels")[:3]:
        called = one_line(", ".join(feature.names), 60)
        print(f"note: {where}: its names are {called}, its shape {list(shape)} is taken", flush=True)


def has_odd_names(feature: Feature) -> bool:
    """Whether a feature has names that are not read: of numbers none that fit, of a picture others than its axes'."""
    picture = feature.dtype in ("video", "image")
    return feature.unclear or (picture and any(name.lower() not in _AXES for name in feature.names))


def axes_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height, width and channels of a shape, channels first or last; one channel, where it has none."""
    if len(shape) < 3:
        return (*shape[-2:], 1)
    return shape if shape[-1] in (1, 3, 4) else (*shape[-2:], shape[0])


COUNTS = ("frame_index", "index", "timestamp", "task_index")
"""Columns that LeRobot itself fills."""


def tells_of_steps(column: str) -> bool:
    """Whether `require_rows` compares a column that LeRobot does not fill itself."""
    last = column.rpartition(".")[2]
    plain = column == last or column == f"next.{last}"
    known = last in (*FLAGS, *ENDS) or (plain and tells(last) and not last.endswith(("_timestamp", "is_pad")))
    return known and column not in (*COUNTS, "episode_index", "next.done")


def require_beside(columns: Mapping[str, list[Any]], features: Mapping[str, Feature], where: str) -> None:
    """Raises EpisodeError: columns that say where an episode begins and ends, or which steps were measured, say that it
    is another."""
    for name, values in columns.items():
        with refusing(f"{where}: {name!r} is no number per step", "download it again", EpisodeError):
            rows = np.asarray(values)
        if name in features and features[name].dtype == "bool":
            require_kind(rows, features[name], f"{where}: {name!r}")
        last = name.rpartition(".")[2]
        require_rows(last, rows, len(rows), where if last == name else f"{where}: {name!r}")


def require_kind(values: np.ndarray, feature: Feature, where: str) -> None:
    """Raises EpisodeError: whole numbers where info.json says others, or the other way round; or truth values that are
    none. Any width is accepted that holds them."""
    if feature.dtype == "bool" and values.dtype.kind in "fOU":
        raise EpisodeError(f"{where} holds {called(values)}, info.json says 'bool'; correct it")
    if values.dtype.kind not in "fiu" or not values.size:
        return
    kind = "f" if feature.dtype.startswith("float") else "iu"
    if feature.dtype != "bool" and (values.dtype.kind not in kind or not NUMBERS.fullmatch(feature.dtype)):
        raise EpisodeError(f"{where} holds {values.dtype}, info.json says {shown(feature.dtype)}; correct it")
    least, most = 0.0, 1.0
    if feature.dtype != "bool":
        limits: Any = np.finfo if values.dtype.kind == "f" else np.iinfo
        least, most = limits(feature.dtype).min, limits(feature.dtype).max
    if (odd := values[np.isfinite(values) & ((values < least) | (values > most))]).size:
        raise EpisodeError(f"{where} holds {odd[0]:g}, info.json says {shown(feature.dtype)}; correct it")


def called(values: np.ndarray) -> str:
    return {"O": "no truth value", "U": "text"}.get(values.dtype.kind, str(values.dtype))
