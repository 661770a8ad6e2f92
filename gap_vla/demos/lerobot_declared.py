"""What `meta/info.json` of a LeRobot dataset says of its features, compared with itself and with the columns."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, one_line, refusing, shown
from gap_vla.demos.beside import ENDS, FLAGS, require_rows, tells
from gap_vla.demos.fields import as_truth
from gap_vla.demos.layout import METRES, UNIT, StateLayout

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
    said: Mapping[str, Any]


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
        said = next((key for key in ("info", "video_info") if feature.values.get(key)), None)  # the latter in v2.0
        about = feature.section(said).values if said else {}
        flags = [about[key] for key in ("video.is_depth_map", "is_depth_map") if about.get(key) is not None]
        depth = any([as_truth(flag, f"{feature.where}: is_depth_map") for flag in flags])
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
        of_film = {key: value for key, value in about.items() if key != "fps"}
        more = {**of_film, **(names if isinstance(names, Mapping) else {}), **feature.values}
        found[name] = Feature("depth map" if depth else dtype, shape, _names(names, shape), more)
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
    )


def _names(said: Any, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The names of a feature's numbers: in a list, under a key, by parts or to their places; none, if all have one."""
    while isinstance(said, Mapping | list) and len(said) == 1:
        (said,) = said.values() if isinstance(said, Mapping) else said
    if isinstance(said, Mapping):
        parts = [*said.values()]
        placed = all(type(part) is int for part in parts) and sorted(parts) == [*range(len(parts))]
        ordered = [*said] != sorted(said)  # by the alphabet, parts may stand otherwise than the columns
        lists = {key: part for key, part in said.items() if ordered and isinstance(part, list)}
        joined = [f"{key}.{name}" for key, part in lists.items() for name in part]
        joined = sorted(said, key=said.__getitem__) if placed else joined
        said = joined if (len(joined),) == shape else ()
    return tuple(said) if isinstance(said, list) and all(isinstance(name, str) for name in said) else ()


def require_metres(said: Mapping[Any, Any], layout: StateLayout, where: str) -> None:
    """Compares what is said of a state's unit; a note where it is no metre and no other unit that is known.

    Raises EpisodeError: its numbers are in another unit than m, or are to be multiplied or moved first.
    """
    for key in ("unit", "units"):
        value = said.get(key)
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
    for key, none in (("scale_factor", 1.0), ("add_offset", 0.0)):
        value = said.get(key)
        if value is not None and any(_number(one) != none for one in (value if isinstance(value, list) else [value])):
            what = f"{where} says {key} {one_line(str(value), 40)}, which is not applied"
            raise EpisodeError(f"{what}; write the numbers themselves, and leave it out")


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
    own = feature.said.get("fps")
    if own is not None and not abs((_number(own) or 0.0) - fps) <= fps / 100:
        raise EpisodeError(f"{where} has fps {one_line(str(own), 40)}, the dataset {fps:g}; correct one of them")


_AXES = {"channel": "channels", "channels": "channels", "c": "channels", "rgb": "channels"}
"""What the axis of the colours is called."""


def require_pictures(feature: Feature, fps: float, where: str) -> None:
    """Says where a camera's shape, which pictures and films are held to, is another than its `info` and names say.

    Raises EpisodeError: its pictures have neither 1, 3 nor 4 channels.
    """
    shape = feature.shape
    if any(str(name).lower() == "bgr" for name in feature.names or feature.said.get("names") or ()):
        raise EpisodeError(f"{where} is BGR by its names, pictures are read as RGB; exchange the channels")
    if len(shape) == 3 and not {shape[0], shape[-1]} & {1, 3, 4}:
        raise EpisodeError(f"{where} has the shape {list(shape)}, no 1, 3 or 4 channels first or last; correct it")
    sides = dict(zip(("height", "width", "channels"), axes_of(shape)))
    for name, right in (*sides.items(), ("fps", fps)):
        said = feature.said.get(f"video.{name}")
        if said is not None and (_number(said) is None or abs(float(said) - right) > right / 100):
            told = f"its video.{name} is {one_line(str(said), 40)}, {'fps' if name == 'fps' else 'its shape'} says"
            print(f"note: {where}: {told} {right:g}, which is taken", flush=True)
    names = found if isinstance(found := feature.said.get("names"), list) else []
    axes = [_AXES.get(str(name).lower()) for name in names]
    first = len(shape) == 3 and shape[-1] not in (1, 3, 4)
    if "channels" in axes and len(axes) == 3 and first != (axes[0] == "channels"):
        called = one_line(", ".join(map(str, names)), 60)
        print(f"note: {where}: its names are {called}, its shape {list(shape)} is taken", flush=True)


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
    none. Any width is accepted."""
    if feature.dtype == "bool" and values.dtype.kind in "fOU":
        raise EpisodeError(f"{where} holds {called(values)}, info.json says 'bool'; correct it")
    if values.dtype.kind in "fiu" and (values.dtype.kind == "f") != feature.dtype.startswith("float"):
        raise EpisodeError(f"{where} holds {values.dtype}, info.json says {shown(feature.dtype)}; correct it")


def called(values: np.ndarray) -> str:
    return {"O": "no truth value", "U": "text"}.get(values.dtype.kind, str(values.dtype))
