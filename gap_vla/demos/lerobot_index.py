"""Where each episode of a LeRobot dataset lies: one file per episode (v2), or ranges of shared files (v3).

Parquet tables are read group by group and in this thread: on some damaged ones `pyarrow.parquet.read_table` waits for
ever for threads that have failed, and looking at a column's statistics ends the process.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, content, parsed, refuse_too_large, refusing, regular
from gap_vla.demos.content import listed, stamp
from gap_vla.demos.lerobot_declared import MOST, Description


def read_rows(
    file: Path,
    columns: list[str] | None = None,
    where: tuple[str, int] | None = None,
    *,
    optional: Iterable[str] = (),
    most: int = 2**63,
) -> dict[str, list[Any]]:
    """Columns of a table as lists, and the optional ones that it has: all rows, or those `where` a column of whole
    numbers has a value. Raises EpisodeError: no such table, a damaged one, or one of more rows than `most`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    advice = "download it again"
    with (
        refusing(f"{file}: the table cannot be read", advice, EpisodeError, (pa.ArrowException,)),
        _opened(file) as table,
    ):
        refuse_too_large(file, 8 * table.metadata.num_rows, file.stat().st_size, EpisodeError)
        if (count := table.metadata.num_rows) > most:
            raise EpisodeError(f"{file}: {count} rows, the index lists {most} steps of it; download both again")
        held = table.schema_arrow.names
        names = list(dict.fromkeys([*(columns or held), *(name for name in optional if name in held)]))
        if odd := [name for name in names if held.count(name) != 1]:
            what = f"{held.count(odd[0])} columns" if odd[0] in held else "no column"
            raise EpisodeError(f"{file}: {what} {odd[0]!r}; {'keep one' if odd[0] in held else advice}")
        rows: dict[str, list[Any]] = {name: [] for name in names}
        several, seen = where is not None and table.num_row_groups > 1, stamp(file)
        spans = _spans(file, seen, where[0]) if where and several else None
        for group in range(table.num_row_groups):
            if where and spans and not spans[group][0] <= where[1] <= spans[group][1]:
                continue
            if where is None:
                part = table.read_row_group(group, columns=names, use_threads=False)
            else:
                part = _group(file, seen, group, tuple(names), where[0])
                part = part.filter(pc.equal(part[where[0]], where[1]))
            for name in names:
                rows[name] += part[name].to_pylist()
        return rows


def _opened(file: Path) -> Any:
    """A table. Of one with many parts the description is read once, as long as it stays as it is."""
    import pyarrow.parquet as pq

    path = regular(file.absolute())
    return pq.ParquetFile(path, metadata=_described(path, stamp(path)), page_checksum_verification=True)


@functools.lru_cache(maxsize=16)
def _described(file: Path, seen: tuple[int, ...]) -> Any:
    import pyarrow.parquet as pq

    return pq.read_metadata(file)


@functools.lru_cache(maxsize=16)
def _spans(file: Path, seen: tuple[int, ...], column: str) -> list[tuple[int, int]]:
    """First and last number of each row group's column: a table of many episodes may have a group of each. Raises
    EpisodeError: the rows are not in the order of that column."""
    spans: list[tuple[int, int]] = []
    with _opened(file) as table:
        for group in range(table.num_row_groups):
            values = table.read_row_group(group, columns=[column], use_threads=False)[column].to_numpy()
            _require_order(file, column, behind := np.concatenate([[one[1] for one in spans[-1:]], values]))
            spans.append((values[0], values[-1]) if len(values) else (behind[-1] + 1, behind[-1]) if spans else (0, -1))
    return spans


@functools.lru_cache(maxsize=1)
def _group(file: Path, seen: tuple[int, ...], group: int, columns: tuple[str, ...], ordered: str) -> Any:
    """The last row group that was read, as long as the file stays as it is: it may hold many episodes, or all. Raises
    EpisodeError: its rows are not in the order of a column."""
    with _opened(file) as table:
        part = table.read_row_group(group, columns=list(columns), use_threads=False)
    _require_order(file, ordered, part[ordered].to_numpy())
    return part


def _require_order(file: Path, column: str, values: np.ndarray) -> None:
    if (values[1:] < values[:-1]).any():
        raise EpisodeError(f"{file}: its rows are not in the order of {column!r}; download it again")


def columns_of(file: Path) -> dict[str, dict[str, str]]:
    """What a table says of each of its columns, in order. Raises EpisodeError: no such table, or a damaged one."""
    import pyarrow as pa

    with refusing(f"{file}: the table cannot be read", "download it again", EpisodeError, (pa.ArrowException,)):
        path = regular(file.absolute())
        schema = _described(path, stamp(path)).schema.to_arrow_schema()
        held = {name: schema.field(place).metadata or {} for place, name in enumerate(schema.names)}
        return {
            name: {key.decode(errors="replace"): value.decode(errors="replace") for key, value in said.items()}
            for name, said in held.items()
        }


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
    tasks = _tasks(described)
    rows = sorted(_episodes(described), key=lambda row: row.whole("episode_index", 0, MOST))
    before = itertools.accumulate((row.whole("length", 1, MOST) for row in rows), initial=0)
    numbers: dict[str, list[int]] | None = None if tasks is None else {}
    for number, text in (tasks or {}).items():
        numbers.setdefault(text, []).append(number)  # type: ignore[union-attr]
    places = [_place(described, row, first, numbers, cameras) for row, first in zip(rows, before)]
    if not places:
        index = "meta/episodes/*.parquet" if described.version == "v3" else "meta/episodes.jsonl"
        raise EpisodeError(f"{root}: {index} lists no episodes; download the dataset again")
    if len({place.index for place in places}) < len(places):
        raise EpisodeError(f"{root}/meta: an episode is listed twice; download the index again")
    for what, held, said in (
        ("episodes", len(places), described.episodes),
        ("frames", sum(place.length for place in places), described.steps),
    ):
        if said is not None and held != said:
            raise EpisodeError(
                f"{root}/meta: the index lists {held} {what}, info.json says total_{what} {said}; download both again"
            )
    _require_apart(described, places)
    _tell_index(described, rows)
    rows_in: collections.Counter[Path] = collections.Counter()
    for place in places:
        rows_in[place.table] += place.length
    _require_listed(root / "data", [".parquet"], rows_in)
    films = {video for place in places for video, _ in place.videos.values()}
    for key in cameras:
        _require_listed(root / "videos", {film.suffix for film in films}, films, of=key)
    beside = {key for row in rows for key in row.values if key not in _READ and key.split("/")[0] not in _PARTS}
    return [dataclasses.replace(place, rows=rows_in[place.table]) for place in places], sorted(beside)


_READ = ("episode_index", "length", "tasks", "dataset_from_index", "dataset_to_index")
_PARTS = ("data", "videos", "meta", "stats")
"""What LeRobot itself writes into an index of episodes: columns, and the first part of their names."""


def _require_listed(folder: Path, suffixes: Collection[str], files: Iterable[Path], of: str | None = None) -> None:
    """Raises EpisodeError if a file lies in a folder, hidden ones apart, and no episode of the index is in it; `of` one
    camera, by a folder's name."""
    named = {os.path.normpath(file) for file in files}
    for file in sorted(listed(folder)):
        own = file.suffix in suffixes and (of is None or of in file.relative_to(folder).parts)
        if own and os.path.normpath(file) not in named:
            said = "by the index, no episode is in it"
            raise EpisodeError(f"{file}: {said}; download {folder.parent}/meta again, or remove it")


def _tell_index(described: Description, rows: Sequence[Section]) -> None:
    """Notes on what lies beside the index or in it, and is not read."""
    meta, third = described.root / "meta", described.version == "v3"
    if beside := [name for name in _INDEX[not third] if (meta / name).exists()]:
        read = " and ".join(_INDEX[third])
        print(f"note: {meta / beside[0]} is of another version and not read; {read} are", flush=True)
    several = [row.where for row in rows if len({*row.list("tasks", Section.text)}) > 1]
    if several:
        more = f", and of {len(several) - 1} more" if several[1:] else ""
        print(f"note: {several[0]}{more}: several tasks; the one of the episode's steps is taken", flush=True)


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
    meta = described.root / "meta"
    tables = sorted(file for file in listed(meta / "episodes") if file.suffix == ".parquet")
    files = tables if described.version == "v3" else [meta / "episodes.jsonl"]
    return [row for file in files for row in _sections(file)]


_PANDAS = "__index_level_0__"
"""What the column of an index without a name is called."""


def _tasks(described: Description) -> dict[int, str] | None:
    """The dataset's instructions by their numbers; None: it has no list of them."""
    file = described.root / "meta" / ("tasks.jsonl" if described.version == "v2" else "tasks.parquet")
    if not os.path.lexists(file):
        return None
    tasks: dict[int, str] = {}
    for row in _sections(file):
        number = row.whole("task_index", 0, MOST)
        text = row.text("task" if "task" in row else _PANDAS)
        if not tasks and "task" in row and _PANDAS in row:
            print(f"note: {file}: its column {_PANDAS!r} is not read, 'task' is", flush=True)
        if tasks.setdefault(number, text) != text:
            raise EpisodeError(f"{row.where}: task_index {number} is that of another task too; download it again")
    return tasks


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
