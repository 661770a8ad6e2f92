"""LeRobot datasets, format v2 and v3: parquet tables, pictures in them or in videos. Read without LeRobot."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import one_line, refuse_too_large, refusing, shown
from gap_vla.core.progress import PATIENCE, Progress
from gap_vla.demos.beside import require_ended, require_rising
from gap_vla.demos.column_names import require_action_names, tell_last
from gap_vla.demos.fields import IMAGE_NAMES, as_truth, resized
from gap_vla.demos.lerobot_declared import (
    COUNTS,
    NUMBERS,
    called,
    read_description,
    require_beside,
    require_kind,
    require_metres,
    require_pace,
    require_pictures,
    require_single,
    require_unpacked,
    tells_of_steps,
)
from gap_vla.demos.lerobot_index import EpisodePlace, index_files, read_index
from gap_vla.demos.lerobot_pictures import frames_of, pictures_of, require_grey, require_there, tell_more
from gap_vla.demos.lerobot_tables import columns_of, read_rows, remarks_of
from gap_vla.demos.lerobot_unread import of_files, of_info, of_tables
from gap_vla.demos.source import NamedArrays, stated

SUCCESS = ("success", "is_episode_successful", "next.success")
"""Columns whose last step says whether an episode succeeded, the surest last."""

_OF_ALL = "is_episode_successful"
"""The one of them that says so at every step."""

_NO_COLOURS = re.compile(
    "depth|(?<![a-z])touch(?![a-z])|tactile|gelsight|gelslim|(?<![a-z])digit(?![a-z])|segment|mask|thermal|infrared|flow",
    re.IGNORECASE,
)
"""Names of pictures that show something other than what a camera sees."""

_ON_HAND = re.compile("wrist|gripper|(?<![a-z])hand(_?eye)?(?![a-z]|_?side)", re.IGNORECASE)
"""Names of cameras that move with a hand; `left_hand_side` is none."""


class LeRobot(NamedArrays):
    """A LeRobot dataset folder (the one that holds `meta/info.json`).

    Args:
        path: the folder.
        image_keys: feature to camera name; default: of the cameras (depth, touch and masks apart) the first one that is
            not named after wrist, hand or gripper becomes `image_primary`, and the first one that is `image_wrist`;
            where all or none are, the first two.
        state_key, action_key: feature names.
        layout: columns of the state, a name of `gap_vla.demos.layout.LAYOUTS` or its attributes. Joint positions are no
            end-effector pose, of which it names the columns.
        image_size: (height, width) to resize to.
        action_limit: the largest action; default: the robot's own units.

    Raises:
        EpisodeError: not a LeRobot folder, an unknown version, a damaged table or video; names the file.
    """

    kind = "lerobot"
    STATE_KEY = "observation.state"
    ACTION_LIMIT: ClassVar[float | None] = None

    def __init__(
        self,
        path: Path,
        *,
        image_keys: Mapping[str, str] | None = None,
        state_key: str = STATE_KEY,
        action_key: str = "action",
        layout: str | Mapping[str, Any] = "gap",
        image_size: tuple[int, int] | list[int] | None = None,
        action_limit: float | None = None,
    ) -> None:
        pixels = [n for n in image_size or () if type(n) is int and 0 < n <= 8192]
        if image_size is not None and not len(pixels) == len(image_size) == 2:
            raise EpisodeError(f"image_size is {image_size!r:.60}; give [height, width] in pixels")
        self._size = (pixels[0], pixels[1]) if pixels else None
        super().__init__(
            path,
            state_key=state_key,
            action_key=action_key,
            image_keys=image_keys,
            layout=layout,
            action_limit=action_limit,
        )
        del self.options["language_instruction"]  # the dataset has its own
        self.options["image_size"] = pixels or None
        if pixels and not self._image_keys:
            raise EpisodeError(f"{path}: image_size has no effect without cameras; leave it out")

    def _find(self) -> None:
        described = read_description(self.path)
        self._described, self._features, self._fps = described, described.features, described.fps
        self._names = list(self._features)
        cameras = [key for key, feature in self._features.items() if feature.dtype in ("video", "image")]
        if self.options["image_keys"] is None:
            coloured = [key for key in cameras if not _NO_COLOURS.search(key)] or cameras
            on_hand = [key for key in coloured if _ON_HAND.search(key)]
            around = [key for key in coloured if key not in on_hand]
            chosen = coloured[:2] if not (on_hand and around) else [around[0], on_hand[0]]
            self._ordered = chosen == cameras[:2]
            self._image_keys = dict(zip(chosen, IMAGE_NAMES))
        for key in (self.options["state_key"], self.options["action_key"], *self._image_keys):
            if key not in (known := cameras if key in self._image_keys else list(self._features)):
                what = "camera of colours" if key in self._image_keys else "feature"
                found = one_line(", ".join(known)) or "none"
                raise EpisodeError(f"{self.path}/meta/info.json: no {what} {key!r} (found: {found})")
            where, feature = f"{self.path}/meta/info.json: {key!r}", self._features[key]
            require_pace(feature, self._fps, where)
            if key in self._image_keys:
                require_pictures(feature, self._fps, where)
                continue
            if not NUMBERS.fullmatch(feature.dtype):
                raise EpisodeError(f"{where} is of {shown(feature.dtype)}, not of numbers; name another")
            if sum(n > 1 for n in feature.shape) > 1:
                raise EpisodeError(
                    f"{where} has the shape {list(feature.shape)}, several rows a step; name one of one row"
                )
            if feature.names and len(feature.shape) == 1 and len(feature.names) != feature.shape[0]:
                raise EpisodeError(
                    f"{where} has {len(feature.names)} names and the shape {list(feature.shape)}; correct one of them"
                )
        state = self.options["state_key"]
        self._layout.require_names(self._features[state].names, f"{self.path}/meta/info.json: {state!r}")
        action = self.options["action_key"]
        require_metres(self._features[state].said, self._layout, f"{self.path}/meta/info.json: {state!r}")
        require_action_names(self._features[action].names, f"{self.path}/meta/info.json: {action!r}")
        tell_last(self._features[action].names, f"{self.path}/meta/info.json: {action!r}")
        require_unpacked(self._features[action].said, f"{self.path}/meta/info.json: {action!r}")
        for key in (key for key in self._features if key in (*COUNTS, "episode_index")):
            where = f"{self.path}/meta/info.json: {key!r}"
            require_pace(self._features[key], self._fps, where)
            require_single(self._features[key], where)
        films = [key for key in self._image_keys if self._features[key].dtype == "video"]
        self.places, self._beside = read_index(described, films)
        self._ends: dict[Path, int] = {}  # of each film, the frames of all its episodes
        for place in self.places:
            for film, start in place.videos.values():
                self._ends[film] = round((start or 0) * self._fps) + place.length

    def identity(self) -> dict[str, Any]:
        named = self.options["image_keys"] is None and not self._ordered
        return super().identity() | ({"cameras": dict(self._image_keys)} if named else {})

    def mapping(self) -> dict[str, str]:
        success = self._success()
        found = super().mapping() | {"language_instruction": "tasks"}
        for key in success:
            held = sum(key in self._held[place.table] for place in self.places)
            found["success"] = stated("success", key, held, len(self.places))
        return {field: name for field, name in found.items() if field != "phase"}  # no column of it is read

    def dropped(self) -> list[str]:
        known = {*self._features, *COUNTS, "episode_index", "next.done"}
        columns = set().union(*self._held.values())
        unused = self._unused(*self._success(), "task_index")
        state, action = self.options["state_key"], self.options["action_key"]
        taken = [key for key in self._features if key not in unused or key in (*COUNTS, "episode_index")]
        films = [key for key in taken if self._features[key].dtype == "video"]
        others = [key for key in unused if "video" in self._features[key].said["dtype"]]
        read = [*self._held, *(film for place in self.places for film, _ in place.videos.values())]
        index = index_files(self._described)
        own = [file for file in index if file.suffix == ".parquet" and self._described.version == "v3"]
        tables = [*self._remarks.values(), *((remarks_of(file), columns_of(file)) for file in own if file.is_file())]
        return (
            unused
            + [f"{name}, which info.json lacks" for name in sorted(columns - known)]
            + [f"{name} in the tables, of which the films are read" for name in films if name in columns]
            + self._beside
            + of_info(self._described, state, action, taken)
            + of_tables(tables, state)
            + of_files(self.path, [*read, *index], others)
        )

    @functools.cached_property
    def _remarks(self) -> dict[Path, tuple[dict[str, str], dict[str, dict[str, str]]]]:
        """What each table says of itself, and of its columns."""
        return {table: (remarks_of(table), columns_of(table)) for table in {place.table for place in self.places}}

    @property
    def _held(self) -> dict[Path, dict[str, dict[str, str]]]:
        """The columns of each table, and what it says of them."""
        return {table: columns for table, (_, columns) in self._remarks.items()}

    def _success(self) -> list[str]:
        """The column that says it, of those that info.json declares, or none. Raises EpisodeError: no table has it."""
        declared = [key for key in SUCCESS if key in self._features]
        found = [key for key in declared if any(key in held for held in self._held.values())]
        if declared and not found:
            raise EpisodeError(
                f"{self.path}: info.json declares {declared[-1]!r}, which no table has; download it again"
            )
        return found[-1:]

    def look(self) -> None:
        progress = Progress(f"look at {self.path}", len(self.places), "episode", after=PATIENCE, out=sys.stderr)
        for place in self.places:
            _rows(place, ["episode_index"])
            for video, _ in place.videos.values():
                require_there(video, f"{video}, episode {place.index}")
            progress.advance(1)

    def read(self, index: int, *, images: bool = True) -> Episode:
        place = self.places[index]
        where = _where(place)
        stored = [k for k in self._image_keys if images and self._features[k].dtype == "image"]
        counts = [key for key in COUNTS if key in self._features]
        columns = [self.options["state_key"], self.options["action_key"], "episode_index", *counts, *stored]
        held = columns_of(place.table)
        said = {key: {name: [one] for name, one in held.get(key, {}).items()} for key in columns[:2]}
        require_metres(said[columns[0]], self._layout, f"{where}: {columns[0]!r}")
        require_unpacked(said[columns[1]], f"{where}: {columns[1]!r}")
        beside = [name for name in held if tells_of_steps(name) and name not in columns]
        table = _rows(place, columns, (*COUNTS, *SUCCESS, "next.done", *beside))
        _require_counted(table, place, self._fps, where)
        require_beside({name: table[name] for name in beside}, self._features, where)
        arrays: dict[str, Any] = {"language_instruction": _instruction(table, place, where)}
        for key in columns[:2]:
            with refusing(f"{where}: {key!r} is no list of numbers", "download it again", EpisodeError):
                width = math.prod(self._features[key].shape)
                if sum(n > 1 for n in np.shape(table[key][0])) > 1:
                    raise EpisodeError(f"{where}: {key} has several rows a step; name one of one row")
                rows = [np.ravel(row) for row in table[key]]
                if odd := [step for step, row in enumerate(rows) if len(row) != len(rows[0])]:
                    counts_of = f"{len(rows[odd[0]])} numbers at step {odd[0]}, {len(rows[0])} at the first"
                    raise EpisodeError(f"{where}: {key!r} has {counts_of}; download it again")
                arrays[key] = np.stack(rows)
            if (found := arrays[key].shape[1]) != width:
                raise EpisodeError(f"{where}: {key!r} has {found} numbers a step, info.json says {width}; correct it")
        of_one = [key for key in ("episode_index", "next.done") if key in self._features and key in table]
        for key in (*columns[:2], *counts, *of_one):
            require_kind(np.asarray(arrays.get(key, table[key])), self._features[key], f"{where}: {key!r}")
        said_by: dict[str, bool] = {}
        for key in (key for key in SUCCESS if key in self._features and key in table):
            last = f"{where}: {key!r} of the last step"
            with refusing(f"{last} is no truth value", "download it again", EpisodeError):
                said_by[key] = as_truth(np.asarray(table[key][-1]), last)
                require_kind(np.asarray(table[key]), self._features[key], f"{where}: {key!r}")
            if key == _OF_ALL and any(value != table[key][-1] for value in table[key]):
                raise EpisodeError(f"{where}: {key!r} is true at some steps and false at others; correct it")
        if len({*said_by.values()}) > 1:
            told = one_line(", ".join(f"{key} {str(value).lower()}" for key, value in said_by.items()), 120)
            raise EpisodeError(f"{where}: the last step says {told}; correct one of them, or take it out of info.json")
        for key in filter(said_by.__contains__, self._success()):
            arrays["success"] = said_by[key]
        for key in self._image_keys if images else ():
            shape = self._features[key].shape
            needed = 2 * place.length * math.prod(shape)  # one by one, and in one array
            refuse_too_large(f"{where}: {key!r}", needed, needed, EpisodeError)
            if key in stored:
                frames = pictures_of(table[key], shape, f"{where}: {key!r}")
            else:
                frames = frames_of(place, key, shape, self._fps)
                film, start = place.videos[key]
                end = round((start or 0) * self._fps) + place.length
                if end == self._ends[film]:
                    tell_more(film, end, self._fps)
            require_grey(frames, shape, f"{where}: {key!r}")
            arrays[key] = resized(frames, self._size)
        return self._episode(arrays, where, images, file=place.table, name=str(place.index))


def _where(place: EpisodePlace) -> str:
    return f"{place.table}, episode {place.index}"


def _rows(place: EpisodePlace, columns: list[str], optional: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Columns of an episode. Raises EpisodeError: as `read_rows`, or it has other rows than the index says."""
    own = ("episode_index", place.index)
    table = read_rows(place.table, columns, own, optional=optional, most=place.rows)
    if (rows := len(table["episode_index"])) != place.length:
        said = f"{rows} rows of this number, the index says {place.length}"
        raise EpisodeError(f"{_where(place)}: {said}; download it again")
    return table


def _require_counted(table: Mapping[str, list[Any]], place: EpisodePlace, fps: float, where: str) -> None:
    """Raises EpisodeError if a column that LeRobot itself fills is not as it fills it: `frame_index` counts from 0,
    `index` over all episodes; `timestamp` is `frame_index` / fps (to half a frame, the clock wrong by at most 1 %),
    rises, and by at most one and a half frames."""
    steps = np.arange(place.length)
    with refusing(f"{where}: 'next.done' is no truth value per step", "download it again", EpisodeError):
        ended = np.asarray(table.get("next.done", steps < 0)).reshape(place.length)
    if ended.dtype.kind not in "biu":
        raise EpisodeError(f"{where}: 'next.done' holds {called(ended)}; write true and false, or leave it out")
    require_ended(f"{where}: 'next.done'", ended.astype(bool))
    times = steps / fps
    slack = (0.5 + steps / 100) / fps
    for key, right, most in (("frame_index", steps, 0), ("index", steps + place.first, 0), ("timestamp", times, slack)):
        with refusing(f"{where}: {key!r} is no number per step", "download it again", EpisodeError):
            found = np.asarray(table.get(key, right)).reshape(place.length)
            wrong = ~(np.abs(found - right) <= most)
        cause = ", or correct fps in meta/info.json" if key == "timestamp" else ""
        if wrong.any():
            step = wrong.argmax()
            said = f"{key!r} is {found[step]:g} at step {step}, not {right[step]:g}"
            raise EpisodeError(f"{where}: {said}; download it again{cause}")
        if key == "timestamp":
            require_rising(found, f"{where}: {key!r}")
            if (late := np.diff(found) * fps > 1.5).any():
                step = 1 + int(late.argmax())
                said = f"{key!r} is {found[step]:g} at step {step}, {found[step - 1]:g} at the one before"
                raise EpisodeError(f"{where}: {said}, frames were lost; download it again{cause}")


def _instruction(table: Mapping[str, list[Any]], place: EpisodePlace, where: str) -> str:
    """The task whose number `task_index` is at every step; without numbers or a list of tasks, that of the index.

    Raises EpisodeError: it is none of the episode's tasks, or changes; or there are tasks without numbers.
    """
    if "task_index" not in table:
        if (tasks := len(place.tasks or ())) > 1:
            raise EpisodeError(f"{where}: {tasks} tasks and no 'task_index' at its steps; download it again")
        if place.task and place.tasks is not None and place.task not in place.tasks.values():
            said = f"the index names the task {shown(place.task)}, which meta/tasks.* lacks"
            raise EpisodeError(f"{where}: {said}; download both again")
        return place.task
    with refusing(f"{where}: 'task_index' is no number per step", "download it again", EpisodeError):
        numbers = np.reshape(table["task_index"], place.length).tolist()
        odd = [number for number in numbers if place.tasks is not None and number not in place.tasks]
    if odd:
        known = f"meta/tasks.* numbers the episode's tasks {one_line(sorted(place.tasks or ()), 60)}"
        raise EpisodeError(f"{where}: 'task_index' is {shown(odd[0])}, {known}; download both again")
    if len(found := dict.fromkeys(numbers)) > 1:
        raise EpisodeError(f"{where}: 'task_index' is {' and '.join(map(str, found))}; make an episode of each task")
    return place.task if place.tasks is None else place.tasks[numbers[0]]
