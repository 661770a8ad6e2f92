"""Where each episode of a LeRobot dataset lies: one file per episode (v2), or ranges of shared files (v3)."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, content, parsed, refusing
from gap_vla.demos.content import listed
from gap_vla.demos.lerobot_declared import MOST, Description
from gap_vla.demos.lerobot_tables import columns_of, read_rows
from gap_vla.demos.lerobot_unread import tell_totals


@dataclasses.dataclass(frozen=True)
class EpisodePlace:
    """One episode of the index."""

    table: Path
    index: int
    first: int  # steps of all episodes before it
    length: int
    task: str  # the first one that the index names
    tasks: Mapping[int, str] | None  # its tasks by their numbers; None: the dataset has no list of them
    videos: dict[str, tuple[Path, float | None]]  # per camera the file and the start in s; None: all of it
    rows: int = 0  # steps of all episodes in the table


def read_index(described: Description, cameras: Collection[str]) -> tuple[list[EpisodePlace], list[str]]:
    """The dataset's episodes in order, and where the videos of these cameras are; and what the index says beside.

    Raises EpisodeError: an unreadable index, or one that does not fit the description, or videos that do not fit it.
    """
    root = described.root
    tasks, beside = _tasks(described)
    rows = sorted(_episodes(described), key=lambda row: row.whole("episode_index", 0, MOST))
    before = itertools.accumulate((row.whole("length", 1, MOST) for row in rows), initial=0)
    numbers: dict[str, list[int]] | None = None if tasks is None else {}
    for number, text in (tasks or {}).items():
        numbers.setdefault(text, []).append(number)  # type: ignore[union-attr]
    places = [_place(described, row, first, numbers, cameras) for row, first in zip(rows, before)]
    if not places:
        index = "meta/episodes/*.parquet" if described.version == "v3" else "meta/episodes.jsonl"
        raise EpisodeError(f"{root}: {index} lists no episodes; download the dataset again")
    for row, one, other in zip(rows[1:], places, places[1:]):
        if one.index == other.index:
            raise EpisodeError(f"{row.where}: episode {one.index} is listed twice; download the index again")
    for what, held, said in (
        ("episodes", len(places), described.episodes),
        ("frames", sum(place.length for place in places), described.steps),
    ):
        if said is not None and held != said:
            raise EpisodeError(
                f"{root}/meta: the index lists {held} {what}, info.json says total_{what} {said}; download both again"
            )
    _require_apart(described, places)
    _require_apart_by_number(rows, places, described)
    _tell_index(described, rows)
    tell_totals(described, len(places), None if tasks is None else len(tasks))
    rows_in: collections.Counter[Path] = collections.Counter()
    for place in places:
        rows_in[place.table] += place.length
    _require_listed(root / "data", [".parquet"], rows_in)
    films = {video for place in places for video, _ in place.videos.values()}
    for key in cameras:
        _require_listed(root / "videos", {film.suffix for film in films}, films, of=key)
    read = {
        "episode_index",
        "length",
        "tasks",
        *(f"dataset_{end}_index" for end in ("from", "to")),
        "stats",
        *_NUMBERED,
    }
    of_cameras = {f"videos/{key}" for key, feature in described.features.items() if "video" in feature.said["dtype"]}
    left = {key for row in rows for key in row.values if key not in read and not key.startswith("stats/")}
    whole = {key.rpartition("/")[0] if key.startswith("videos/") and key.endswith(_OF_FILM) else key for key in left}
    beside += [f"{key} of the index of episodes" for key in sorted(whole - of_cameras)]
    return [dataclasses.replace(place, rows=rows_in[place.table]) for place in places], beside


_NUMBERED = tuple(f"{part}/{of}_index" for part in ("data", "meta/episodes") for of in ("chunk", "file"))
_OF_FILM = ("/chunk_index", "/file_index", "/from_timestamp", "/to_timestamp")
"""What an index of version 3 says of the tables, and of the films of a camera."""


def _require_listed(folder: Path, suffixes: Collection[str], files: Iterable[Path], of: str | None = None) -> None:
    """Raises EpisodeError if a file lies in a folder, hidden ones apart, and no episode of the index is in it; `of` one
    camera, by a folder's name."""
    named = {os.path.normpath(file) for file in files}
    for file in sorted(listed(folder)):
        own = file.suffix in suffixes and (of is None or of in file.relative_to(folder).parts)
        if own and os.path.normpath(file) not in named:
            said = "by the index, no episode is in it"
            raise EpisodeError(f"{file}: {said}; download {folder.parent}/meta again, or remove it")


def _require_apart_by_number(rows: Sequence[Section], places: Sequence[EpisodePlace], described: Description) -> None:
    """Raises EpisodeError: by the index two episodes are in files of other numbers, by the paths in the same file."""
    found: dict[tuple[str, Path], list[Any]] = {}
    for row, place in zip(rows, places) if described.version == "v3" else ():
        files = {"data": place.table} | {f"videos/{key}": film for key, (film, _) in place.videos.items()}
        for part, file in files.items():
            keys = [row.values[f"{part}/{key}"] for key in ("chunk_index", "file_index")]
            if (others := found.setdefault((part, file), keys)) != keys:
                said = f"chunk and file {keys} of {part!r}, which is {file}, as {others} is"
                raise EpisodeError(f"{row.where}: {said}; correct the paths in meta/info.json")


def _tell_index(described: Description, rows: Sequence[Section]) -> None:
    """Notes on what lies beside the index or in it, and is not read."""
    meta, third = described.root / "meta", described.version == "v3"
    if beside := [name for name in _INDEX[not third] if (meta / name).exists()]:
        read = " and ".join(_INDEX[third])
        left = " and ".join(str(meta / name) for name in beside)
        print(f"note: {left}: of another version and not read; {read} are", flush=True)
    several = [row.where for row in rows if len({*row.list("tasks", Section.text)}) > 1]
    if several:
        more = f", and of {len(several) - 1} more" if several[1:] else ""
        print(f"note: {several[0]}{more}: several tasks; the one of the episode's steps is taken", flush=True)
    for row in rows:
        own = [int(part) for part in _INDEX_FILE.findall(row.where)[-1:] for part in part]
        said = [row.values.get(f"meta/episodes/{key}_index", right) for key, right in zip(("chunk", "file"), own)]
        if said != own:
            print(f"note: {row.where}: it says that it is in chunk and file {said} of the index", flush=True)
            break


_INDEX_FILE = re.compile(r"/chunk-(\d+)/file-(\d+)\.parquet row ")


_INDEX = (("episodes.jsonl", "tasks.jsonl"), ("episodes", "tasks.parquet"))
"""What the index consists of, in version 2 and in version 3."""


def _require_apart(described: Description, places: list[EpisodePlace]) -> None:
    """Raises EpisodeError if two episodes, or two cameras of one, share frames of a video or are not in their order, or
    if frames of it before or between them are of none."""
    frame = 1 / described.fps
    parts = sorted(
        (video, start or 0.0, place.index, place.length * frame)
        for place in places
        for video, start in place.videos.values()
    )
    for (video, start, index, seconds), (other, following, second, _) in itertools.pairwise(parts):
        if video == other and (second < index or following < start + seconds - frame / 2):
            raise EpisodeError(
                f"{video}: by the index, episode {second} begins at {following:g} s, not behind all of episode {index} "
                f"({start:g} to {start + seconds:g} s); download {described.root}/meta again"
            )
    ends: dict[Path, float] = {}
    for video, start, index, seconds in parts:
        end = ends.get(video, 0.0)
        if start > end + 0.75 * frame:
            said = f"by the index, its pictures from {end:g} to {start:g} s, before episode {index}, are of none"
            raise EpisodeError(f"{video}: {said}; download {described.root}/meta again")
        ends[video] = start + seconds


def _episodes(described: Description) -> list[Section]:
    """What the index says of each episode."""
    return [row for file in _index_of_episodes(described) for row in _sections(file)]


def _index_of_episodes(described: Description) -> list[Path]:
    meta = described.root / "meta"
    tables = sorted(file for file in listed(meta / "episodes") if file.suffix == ".parquet")
    return tables if described.version == "v3" else [meta / "episodes.jsonl"]


def index_files(described: Description) -> list[Path]:
    """The files of the index, also those of another version, of which a note says that they are not read."""
    meta = described.root / "meta"
    others = [meta / name for names in _INDEX for name in names]
    of_other = [file for one in others for file in listed(one)] if described.version == "v2" else []
    return [*_index_of_episodes(described), *others, *of_other]


_PANDAS = "__index_level_0__"
"""What the column of an index without a name is called."""


def _tasks(described: Description) -> tuple[dict[int, str] | None, list[str]]:
    """The dataset's instructions by their numbers; None: it has no list of them. And what the list says beside."""
    file = described.root / "meta" / ("tasks.jsonl" if described.version == "v2" else "tasks.parquet")
    if not os.path.lexists(file):
        return None, []
    tasks: dict[int, str] = {}
    beside: set[str] = set()
    for row in _sections(file):
        number = row.whole("task_index", 0, MOST)
        text = row.text("task" if "task" in row else _PANDAS)
        if not tasks and "task" in row and _PANDAS in row:
            print(f"note: {file}: its column {_PANDAS!r} is not read, 'task' is", flush=True)
        if tasks.setdefault(number, text) != text:
            raise EpisodeError(f"{row.where}: task_index {number} is that of another task too; download it again")
        beside |= {*row.values} - {"task_index", "task", _PANDAS}
    return tasks, [f"{key} of the list of tasks" for key in sorted(beside)]


def _sections(file: Path) -> list[Section]:
    """The rows of a table of the index: JSON lines, or parquet."""
    if file.suffix == ".parquet":
        columns = read_rows(file, [name for name in columns_of(file) if not name.startswith("stats/")])
        rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    else:
        rows, advice = [], "download it again"
        with refusing(f"{file}: the index cannot be read", advice, EpisodeError):
            lines = content(file, EpisodeError).decode().split("\n")
        for number, line in enumerate(lines, start=1):
            with refusing(f"{file} line {number}: the index cannot be read", advice, EpisodeError):
                rows += [parsed(line)] if line.strip() else []
    return [Section(row, f"{file} row {i}", EpisodeError) for i, row in enumerate(rows, start=1)]


def _place(
    described: Description, row: Section, first: int, numbers: Mapping[str, list[int]] | None, cameras: Iterable[str]
) -> EpisodePlace:
    index, length = row.whole("episode_index", 0, MOST), row.whole("length", 1, MOST)
    shared = described.version == "v3"
    for key, right in (("dataset_from_index", first), ("dataset_to_index", first + length)):
        row.whole(key, right, right, right)

    def file(template: str, part: str, **names: str) -> Path:
        own = {"episode_chunk": index // described.chunks_size, "episode_index": index}
        keys = {key: row.whole(f"{part}/{key}", 0, MOST) for key in ("chunk_index", "file_index")} if shared else own
        return described.file(template, **names, **keys)

    videos: dict[str, tuple[Path, float | None]] = {}
    for key in cameras:
        part, start = f"videos/{key}", None
        if shared:
            start, end = (row.finite(f"{part}/{which}_timestamp", 0, MOST) for which in ("from", "to"))
            if abs((end - start) * described.fps - length) >= 0.5:
                raise EpisodeError(
                    f"{row.where}: {key!r} is {end - start:g} s of a video, the {length} steps take "
                    f"{length / described.fps:g} s; download it again, or leave the camera out with image_keys"
                )
        videos[key] = file(described.video_path, part, video_key=key), start
    texts = row.list("tasks", Section.text)
    task = next(iter(texts), "")
    if numbers is None and len({*texts}) > 1:
        raise EpisodeError(f"{row.where}: {len(texts)} tasks, and there is no meta/tasks.* to number them; download it")
    tasks = None if numbers is None else {number: text for text in texts for number in numbers.get(text, ())}
    return EpisodePlace(file(described.data_path, "data"), index, first, length, task, tasks, videos)
