"""LeRobot datasets of format v2 and v3: parquet tables, pictures in them or in films. Read without LeRobot.

The rows of an episode are those with its `episode_index`, wherever they are; what else the index counts is bookkeeping.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from gap_vla.core.columns import Columns, joined
from gap_vla.core.episode import LABELS
from gap_vla.core.errors import EpisodeError, UserError
from gap_vla.core.files import mark, read_json, replacing, write_json
from gap_vla.demos import lerobot_sidecar
from gap_vla.demos.arrays import as_text, reading
from gap_vla.demos.fields import AS_DECLARED, Fields
from gap_vla.demos.lerobot_names import columns_from, names_of
from gap_vla.demos.source import Arrays, Labels, Place, Recording, Source

SUCCESS = ("next.success", "is_episode_successful", "success")
"""Columns whose last step says whether an episode succeeded; the first one that is there counts."""

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index", "next.done")
DESCRIPTION = "gap_columns.json"
"""File of a dataset that `gap-vla convert` wrote: feature to the description of its columns."""
_ON_HAND = ("wrist", "hand", "gripper")

MOST_MISSING = 1.0
"""Seconds for which a picture may stand in the place of others that a film lacks."""


class Film(NamedTuple):
    """Where the film of an episode is, and where it may begin in it, in seconds: by the index, and behind all episodes
    before it; None: the film holds this episode alone."""

    file: Path
    starts: tuple[float | None, ...] = (None,)


@dataclasses.dataclass(frozen=True)
class LeRobotPlace(Place):
    """An episode: rows `first` to `first + length` of the table `file`, and where its films are.

    Attributes:
        length: None: all rows.
        films: feature to film.
        texts: its tasks by the index.
    """

    number: int
    first: int = 0
    length: int | None = None
    films: Mapping[str, Film] = dataclasses.field(default_factory=dict)
    texts: tuple[str, ...] = ()

    @property
    def last(self) -> int:
        return len(_column(self.file, "episode_index")) if self.length is None else self.first + self.length

    def has(self, camera: str) -> bool:
        """Whether the film of a camera was downloaded."""
        return camera in self.films and self.films[camera].file.exists()


class LeRobot(Source):
    """The folder that holds `meta/info.json`; episodes whose files were not downloaded are left out."""

    kind = "lerobot"
    output = "labelled_lerobot"
    STATES = ("observation.state", "state")
    INSIDE = ("observation.images.", "observation.", "observation.image.")

    def __init__(self, path: str | Path, fields: Fields = AS_DECLARED) -> None:
        self._told_of_lacking_pictures = False
        super().__init__(path, fields)
        films = [name for name in self.cameras.values() if self._features[name]["dtype"] == "video"]
        kept = [place for place in self.places if all(map(place.has, films))]
        if not kept:
            what = f"no films of {', '.join(films)} are here"
            raise EpisodeError(f"{self.path}: {what}; download some, or choose by --image")
        if lacking := len(self.places) - len(kept):
            self.notes.append(f"{lacking} of {len(self.places)} episodes have no films here and are left out")
        self.places = kept

    # The index

    def find(self) -> tuple[list[LeRobotPlace], dict[str, list[str]]]:
        meta = self.path / "meta"
        self._info = info = read_json(meta / "info.json")
        version = str(info.get("codebase_version"))[:2]
        if version not in ("v2", "v3"):
            what = f"LeRobot's format {info.get('codebase_version')}; v2 and v3 are read, convert it with LeRobot"
            raise EpisodeError(f"{meta}/info.json: {what}")
        self._features, self._fps = info["features"], float(info["fps"])
        self.robot_type = info.get("robot_type") or ""
        third = version == "v3"
        listed = _rows(meta, "tasks.parquet" if third else "tasks.jsonl")
        self._tasks = {int(row["task_index"]): _task(row) for row in listed}
        rows = _rows(meta, "episodes/**/*.parquet" if third else "episodes.jsonl")
        index = {int(row["episode_index"]): row for row in rows}
        tables = self._tables(index) if third else self._own_tables(index)
        films = self._films(index, third)
        if lacking := len({*index} - {*tables}):
            self.notes.append(f"{lacking} of {len(index)} episodes have no rows here and are left out")
        places = []
        for number, (file, first, length) in sorted(tables.items()):
            texts = tuple(index.get(number, {}).get("tasks") or ())
            places.append(LeRobotPlace(file, f"{number}", number, first, length, films.get(number, {}), texts))
        return places, {}

    def _own_tables(self, index: Mapping[int, Any]) -> dict[int, tuple[Path, int, int | None]]:
        """Version 2: each episode has its own table."""
        files = {number: self._file("data_path", number) for number in index}
        return {number: (file, 0, None) for number, file in files.items() if file.exists()}

    def _tables(self, index: Mapping[int, Any]) -> dict[int, tuple[Path, int, int | None]]:
        """Version 3: file, first row and number of rows of each episode, by its number in the tables themselves."""
        found: dict[int, tuple[Path, int, int | None]] = {}
        for file in sorted((self.path / "data").glob("**/*.parquet")):
            with reading(file):
                numbers = np.asarray(read_column(file, "episode_index"))
            numbers, firsts, counts = np.unique(numbers, return_index=True, return_counts=True)
            for number, first, count in zip(numbers.tolist(), firsts.tolist(), counts.tolist()):
                found[number] = file, first, count
        listed = [number for number in found if "data/file_index" in index.get(number, {})]
        if stale := sum(found[number][0] != self._file("data_path", number, index) for number in listed):
            what = f"{stale} episodes lie in another table than the index says"
            self.notes.append(f"{what}; they are read where they are")
        return found

    def _file(self, template: str, number: int, index: Mapping[int, Any] | None = None, camera: str = "") -> Path:
        part = f"videos/{camera}" if camera else "data"
        own = (index or {}).get(number, {})
        return self.path / self._info[template].format(
            episode_chunk=number // self._info.get("chunks_size", 1000),
            episode_index=number,
            video_key=camera,
            chunk_index=own.get(f"{part}/chunk_index", 0),
            file_index=own.get(f"{part}/file_index", 0),
        )

    def _films(self, index: Mapping[int, Any], third: bool) -> dict[int, dict[str, Film]]:
        """Of each episode, the films of all cameras."""
        films: dict[int, dict[str, Film]] = {number: {} for number in index}
        for camera in (name for name, feature in self._features.items() if feature["dtype"] == "video"):
            files = {number: self._file("video_path", number, index, camera) for number in sorted(index)}
            if not third:
                for number, file in files.items():
                    films[number][camera] = Film(file)
                continue
            for file, group in itertools.groupby(files, key=files.__getitem__):
                own = list(group)
                lengths = [index[number]["length"] / self._fps for number in own]
                starts = [float(index[number].get(f"videos/{camera}/from_timestamp") or 0) for number in own]
                counted = [0.0, *np.cumsum(lengths).tolist()]
                ends = np.add(starts, lengths) - 0.5 / self._fps
                if any(following < end for following, end in zip(starts[1:], ends)):
                    starts = counted
                    self.notes.append(f"{file}: by the index its episodes overlap; they are read one behind the other")
                for number, start, behind in zip(own, starts, counted):
                    films[number][camera] = Film(file, tuple(dict.fromkeys((start, behind))))
        return films

    # What is declared

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        if (file := self.path / DESCRIPTION).exists() and {*names} <= {*(said := read_json(file))}:
            return joined([Columns.parse(said[name]) for name in names])
        percent = self.robot_type.startswith("koch") or str(self._info["codebase_version"]).startswith("v2")
        return columns_from(self.column_names(names, widths), percent)

    def column_names(self, names: Sequence[str], widths: Sequence[int]) -> list[str]:
        declared = [names_of(self._features[name].get("names"), width) for name, width in zip(names, widths)]
        return [one for part in declared for one in part] if all(declared) else []

    def cameras_of(self, first: Recording) -> dict[str, str]:
        """The first camera that is on no hand, and the first that is on one; those without a film here are left out."""
        kinds = {name: feature["dtype"] for name, feature in self._features.items() if not _is_depth(name, feature)}
        found = [name for name, kind in kinds.items() if kind in ("video", "image")]
        there = [name for name in found if kinds[name] == "image" or any(place.has(name) for place in self.places)]
        if len(there) < len(found):
            self.notes.append(f"no films of {', '.join(name for name in found if name not in there)} are here")
        on_hand = [name for name in there if any(word in name.rpartition(".")[2] for word in _ON_HAND)]
        around = [name for name in there if name not in on_hand]
        chosen = [around[0], on_hand[0]] if around and on_hand else there[:2]
        return dict(zip(("image_primary", "image_wrist"), chosen))

    # Reading

    @contextlib.contextmanager
    def recording(self, place: LeRobotPlace) -> Iterator[Recording]:
        columns = _columns(place.file)
        there = [name for name, own in self._features.items() if own["dtype"] == "video" or name in columns]
        names = [name for name in there if name not in BOOKKEEPING]
        beside = lerobot_sidecar.read(self.sidecar)
        names += [name for name in LABELS if beside and place.number in beside.rows and name not in names]
        arrays = Arrays(names, functools.partial(self._array, place))
        success = [name for name in SUCCESS if name in arrays]
        yield Recording(arrays, self._instruction_of(place), arrays[success[0]] if success else True)

    def _array(self, place: LeRobotPlace, name: str) -> Any:
        if name in LABELS and (stored := self._stored(place)):
            return stored[name]
        kind = self._features[name]["dtype"]
        if kind == "video":
            return self.frames(place, name)
        column = read_column(place.file, name, place.first, place.last)
        if kind == "image":  # it lies in the table, or in a file that the table names
            return [row["bytes"] or (self.path / row["path"]).read_bytes() for row in column.to_pylist()]
        values = as_array(column)
        return self.task_names(values) if name == self._resolved.instruction and values.dtype.kind in "iu" else values

    def _stored(self, place: LeRobotPlace) -> Labels | None:
        """What the sidecar has of an episode. Raises UserError: the frames are not those that were annotated."""
        beside = lerobot_sidecar.read(self.sidecar)
        if not beside or place.number not in beside.rows:
            return None
        if self._hash(place, beside.state) != beside.frames[place.number]:
            what = f"is of another version of the dataset (episode {place.number} differs)"
            raise UserError(f"{self.sidecar} {what}; annotate again: gap-vla annotate {self.path} --overwrite")
        rows = slice(*beside.rows[place.number])
        return {name: getattr(beside, name)[rows] for name in LABELS}

    def _hash(self, place: LeRobotPlace, names: Sequence[str]) -> str:
        there = [name for name in names if name in _columns(place.file)]
        return lerobot_sidecar.frames_hash(
            self._rows_of(place, "frame_index"), [self._rows_of(place, n) for n in there]
        )

    def _rows_of(self, place: LeRobotPlace, name: str) -> np.ndarray:
        return as_array(read_column(place.file, name, place.first, place.last))

    def _instruction_of(self, place: LeRobotPlace) -> Any:
        """The task of each step by its number; without numbers or a list of tasks, that of the index."""
        texts = []
        if self._tasks and "task_index" in self._features:
            texts = self.task_names(np.asarray(read_column(place.file, "task_index", place.first, place.last)))
        return texts if any(texts) else next(iter(place.texts), "")

    def task_names(self, numbers: np.ndarray) -> list[str]:
        """The texts of a column that numbers the dataset's tasks, as GR00T's `annotation.*` do."""
        return [self._tasks.get(int(number), "") for number in numbers.reshape(-1)]

    def frames(self, place: LeRobotPlace, name: str) -> UInt8[np.ndarray, "T h w 3"]:
        """The pictures of a camera whose pictures are in films."""
        film, steps = place.films[name], place.last - place.first
        frames, missing = film_frames(film.file, steps, self._fps, film.starts)
        if missing and not self._told_of_lacking_pictures:
            self._told_of_lacking_pictures = True
            said = f"{film.file} lacks the pictures of {missing} steps of episode {place.name}"
            print(f"note: {said}; those beside them stand in their places", flush=True)
        return frames

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def sidecar(self) -> Path:
        return self.path / lerobot_sidecar.NAME

    def output_at(self, out: Path) -> str | None:
        return None if out.suffix == ".parquet" else self.output

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Writes a sidecar if `out` is called *.parquet, else a copy of the folder with the labels in its tables."""
        if out.suffix == ".parquet":
            self._write_sidecar(out, labels, annotator)
        else:
            self._write_copy(out, labels, annotator)

    def _write_sidecar(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        of_tables = [{name: self._rows_of(place, name) for name in ("index", "frame_index")} for place in self.places]
        numbers = [np.full(len(own["rho"]), place.number) for place, own in zip(self.places, labels)]
        columns = {
            "index": np.concatenate([own["index"] for own in of_tables]),
            "episode_index": np.concatenate(numbers),
            "frame_index": np.concatenate([own["frame_index"] for own in of_tables]),
            "rho": np.concatenate([own["rho"] for own in labels]),
            "change_point": np.concatenate([own["change_point"] for own in labels]),
        }
        hashes = {place.number: self._hash(place, self.state) for place in self.places}
        lerobot_sidecar.write(out, columns, annotator, self.state, hashes)

    def _write_copy(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with replacing(out) as new:
            shutil.copytree(self.path, new, ignore=shutil.ignore_patterns(".*", f"{lerobot_sidecar.NAME}*"))
            for file in {place.file for place in self.places}:
                table = pq.read_table(file)
                added = {"rho": np.full(len(table), np.nan, np.float32), "change_point": np.zeros(len(table), bool)}
                for place, own in zip(self.places, labels):
                    for name, value in own.items() if place.file == file else ():
                        added[name][place.first : place.last] = value
                table = table.drop_columns([name for name in added if name in table.column_names])
                for name, value in added.items():
                    table = table.append_column(name, pa.array(value))
                size = max(1, pq.read_metadata(file).row_group(0).num_rows)
                pq.write_table(table, new / file.relative_to(self.path), row_group_size=size)
            feature = {"shape": [1], "names": None}
            added_features = {"rho": {"dtype": "float32", **feature}, "change_point": {"dtype": "bool", **feature}}
            features = {**self._features, **added_features}
            write_json(new / "meta/info.json", {**self._info, "features": features, "annotator": dict(annotator)})
            mark(new, self.output)


def _is_depth(name: str, feature: Mapping[str, Any]) -> bool:
    said = [feature, *(feature.get(key) or {} for key in ("info", "video_info"))]
    return "depth" in name or any(one.get("video.is_depth_map") or one.get("is_depth_map") for one in said)


def _task(row: Mapping[str, Any]) -> str:
    """The text of a row of the tasks: its column is `task`, or the index of a table by pandas."""
    return as_text(row.get("task", next((value for value in row.values() if isinstance(value, str)), "")))


# Tables


def read_column(file: Path, name: str, first: int = 0, last: int | None = None) -> Any:
    """Rows of one column of a table, from `first` up to `last`, as a pyarrow array."""
    column = _column(file, name)
    return column.slice(first, (len(column) if last is None else last) - first).combine_chunks()


@functools.lru_cache(maxsize=8)  # a table may hold many episodes
def _column(file: Path, name: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, page_checksum_verification=True) as table:
        return table.read(columns=[name]).column(name)


@functools.lru_cache(maxsize=1024)
def _columns(file: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(file).names)


def as_array(column: Any) -> np.ndarray:
    """A column of numbers, [T] or [T, width] if it holds lists."""
    import pyarrow as pa

    flat = column.storage if isinstance(column, pa.ExtensionArray) else column
    while pa.types.is_list(flat.type) or pa.types.is_fixed_size_list(flat.type) or pa.types.is_large_list(flat.type):
        flat = flat.flatten()
    values: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return values if flat is column else values.reshape(len(column), -1)


def _rows(meta: Path, pattern: str) -> list[dict[str, Any]]:
    """The rows of JSON lines or of parquet tables, as far as they are there; statistics are left out."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for file in sorted(meta.glob(pattern)):
        with reading(file):
            if file.suffix == ".parquet":
                names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
                rows += pq.read_table(file, columns=names).to_pylist()
            else:
                rows += [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return rows


# Films


def film_frames(
    file: Path, steps: int, fps: float, starts: Sequence[float | None] = (None,)
) -> tuple[UInt8[np.ndarray, "T h w 3"], int]:
    """The picture of each step, and how many steps have that of another step because the film lacks theirs.

    Args:
        starts: where the episode may begin, in seconds from the film's beginning; None: the film holds it alone. The
            first one from which on the film lacks least is taken.
    """
    found: list[tuple[np.ndarray, int]] = []
    for start in starts:
        frames, first, times = _decoded(file, steps, fps, start)
        if start is None and len(frames) == steps:
            return np.stack(frames), 0
        apart = np.abs(times[None] - (first + np.arange(steps) / fps)[:, None])
        if len(frames) and apart.min(axis=1).max() <= max(MOST_MISSING, 1.5 / fps):
            pictures = np.stack([frames[place] for place in apart.argmin(axis=1)])
            found.append((pictures, int((apart.min(axis=1) > 0.75 / fps).sum())))
        if found and not found[-1][1]:
            break
    if not found:
        raise EpisodeError(f"{file} lacks the pictures of more than {MOST_MISSING} s; download it again")
    return min(found, key=lambda one: one[1])


def _decoded(file: Path, steps: int, fps: float, start: float | None) -> tuple[list[np.ndarray], float, np.ndarray]:
    """The frames of an episode, its beginning by the film's own clock, and the times of the frames (s)."""
    import av

    frames, times = [], []
    with reading(file), av.open(str(file)) as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        unit = float(stream.time_base or 1)
        first = max((stream.start_time or 0) * unit, 0) + (start or 0)
        if start:
            film.seek(max(int((first - 1 / fps) / unit), 0), stream=stream)
        for number, frame in enumerate(film.decode(stream)):
            time = first + number / fps if frame.time is None else frame.time
            if start is not None and time > first + (steps + 0.5) / fps:
                break
            if time > first - (0.5 / fps if start is None else 1.5 / fps):  # those before are not shown
                frames.append(frame.to_ndarray(format="rgb24"))
                times.append(time)
    return frames, first, np.array(times)
