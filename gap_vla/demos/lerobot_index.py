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
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, content, parsed, refuse_too_large, refusing, regular, shown
from gap_vla.demos.content import listed, stamp


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


def columns_of(file: Path) -> list[str]:
    """The names of a table's columns. Raises EpisodeError: no such table, or a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with refusing(f"{file}: the table cannot be read", "download it again", EpisodeError, (pa.ArrowException,)):
        return list(pq.read_schema(regular(file.absolute())).names)


MOST = 2**31
"""No dataset has more episodes, files, chunks or steps than this."""

NUMBERS = re.compile(r"float(16|32|64)|u?int(8|16|32|64)")

_FIELD = re.compile(r"\{(\w+)(?::0?\d{1,2}d?)?\}")


@dataclasses.dataclass(frozen=True)
class Feature:
    """A column of the dataset: its kind (`float32`, `image`, `video`, `depth map`) and the shape of one row of it."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]  # of its numbers, if each has one


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
        depth = about.get("video.is_depth_map") or about.get("is_depth_map")
        dtype = feature.text("dtype")
        if re.fullmatch(r"(float|u?int)\d+", dtype) and not NUMBERS.fullmatch(dtype):
            raise EpisodeError(f"{feature.name('dtype')} is {shown(dtype)}, which no number is; correct it")
        found[name] = Feature("depth map" if depth else dtype, shape, _names(feature.values.get("names"), shape))
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
        joined = [name for part in parts if ordered and isinstance(part, list) for name in part]
        joined = sorted(said, key=said.__getitem__) if placed else joined
        said = joined if (len(joined),) == shape else ()
    return tuple(said) if isinstance(said, list) and all(isinstance(name, str) for name in said) else ()


def read_index(described: Description, cameras: Iterable[str]) -> list[EpisodePlace]:
    """The dataset's episodes in order, and where the videos of these cameras are.

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
    rows_in: collections.Counter[Path] = collections.Counter()
    for place in places:
        rows_in[place.table] += place.length
    _require_listed(root, rows_in)
    return [dataclasses.replace(place, rows=rows_in[place.table]) for place in places]


def _require_listed(root: Path, tables: Iterable[Path]) -> None:
    """Raises EpisodeError if a table lies among the data, hidden ones apart, and no episode of the index is in it."""
    named = {os.path.normpath(table) for table in tables}
    for file in sorted(listed(root / "data")):
        if file.suffix == ".parquet" and os.path.normpath(file) not in named:
            raise EpisodeError(f"{file}: by the index, no episode is in it; download {root}/meta again, or remove it")


def _require_apart(described: Description, places: list[EpisodePlace]) -> None:
    """Raises EpisodeError if two episodes, or two cameras of one, share frames of a video or are not in their order."""
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


def _episodes(described: Description) -> list[Section]:
    """What the index says of each episode."""
    meta = described.root / "meta"
    tables = sorted(file for file in listed(meta / "episodes") if file.suffix == ".parquet")
    files = tables if described.version == "v3" else [meta / "episodes.jsonl"]
    return [row for file in files for row in _sections(file)]


def _tasks(described: Description) -> dict[int, str] | None:
    """The dataset's instructions by their numbers; None: it has no list of them."""
    file = described.root / "meta" / ("tasks.jsonl" if described.version == "v2" else "tasks.parquet")
    if not os.path.lexists(file):
        return None
    tasks: dict[int, str] = {}
    for row in _sections(file):
        number = row.whole("task_index", 0, MOST)
        text = row.text("task" if "task" in row else "__index_level_0__")  # pandas' index
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
