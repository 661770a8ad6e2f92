"""Where each episode of a LeRobot dataset lies: one file per episode (v2), or ranges of shared files (v3).

Parquet tables are read group by group and in this thread. `pyarrow.parquet.read_table` is left alone: on some damaged
tables it waits for ever for threads that have failed, and looking at a column's statistics ends the process.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, parsed, refuse_too_large, refusing


def read_rows(
    file: Path, columns: list[str] | None = None, where: tuple[str, int] | None = None
) -> dict[str, list[Any]]:
    """Columns of a table as lists, all rows or those in which a column of whole numbers has a value.

    Raises:
        EpisodeError: no such file, or a damaged one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    advice = "download it again"
    with (
        refusing(f"{file}: the table cannot be read", advice, EpisodeError, (pa.ArrowException,)),
        pq.ParquetFile(file) as table,
    ):
        refuse_too_large(file, 8 * table.metadata.num_rows, file.stat().st_size, EpisodeError)
        names = columns or table.schema_arrow.names
        if missing := [name for name in names if name not in table.schema_arrow.names]:
            raise EpisodeError(f"{file}: no column {missing[0]!r}; {advice}")
        rows: dict[str, list[Any]] = {name: [] for name in names}
        for group in range(table.num_row_groups):
            chosen = None
            if where is not None:
                values = table.read_row_group(group, columns=[where[0]], use_threads=False)[where[0]]
                chosen = pc.equal(values, where[1])
                if not pc.any(chosen).as_py():
                    continue
            part = table.read_row_group(group, columns=names, use_threads=False)
            part = part if chosen is None else part.filter(chosen)
            for name in names:
                rows[name] += part[name].to_pylist()
        return rows


MOST = 2**31
"""No dataset has more episodes, files, chunks or steps than this."""

_FIELD = re.compile(r"\{(\w+)(?::0?\d{1,2}d?)?\}")


@dataclasses.dataclass(frozen=True)
class Feature:
    """A column of the dataset: its kind (`float32`, `image`, `video`, …) and the numbers in one row of it."""

    dtype: str
    width: int


@dataclasses.dataclass(frozen=True)
class Description:
    """`meta/info.json`, checked.

    Attributes:
        root: folder of the dataset.
        version: "v2" or "v3".
        features: by name.
        data_path, video_path: where files lie, with fields in braces.
        chunks_size: v2: episodes per folder.
        episodes, steps: how many there are; None: not said.
        fps: steps per second; None: not said.
    """

    root: Path
    version: str
    features: Mapping[str, Feature]
    data_path: str
    video_path: str
    chunks_size: int
    episodes: int | None
    steps: int | None
    fps: float | None

    @property
    def videos(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature.dtype == "video"]

    def file(self, template: str, **fields: Any) -> Path:
        """A file of the dataset. Raises EpisodeError: the template names other fields, or leads out of the folder."""
        left = _FIELD.sub("", template)
        if "{" in left or "}" in left or not set(_FIELD.findall(template)) <= set(fields):
            raise EpisodeError(f"{self.root}/meta/info.json: path {template!r:.100}: known are {', '.join(fields)}")
        path = self.root / template.format(**fields)
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(self.root)):  # its files may be links
            raise EpisodeError(f"{self.root}/meta/info.json: path {template!r:.100} leads out of the dataset")
        return path


@dataclasses.dataclass(frozen=True)
class EpisodePlace:
    """One episode: table, number in it, length, instruction, and per camera (video, start in s; None: all of it)."""

    table: Path
    index: int
    length: int
    task: str
    videos: dict[str, tuple[Path, float | None]]


def read_description(root: Path) -> Description:
    """The dataset's `meta/info.json`.

    Raises:
        EpisodeError: there is none, an unknown version, or a key of another kind; names the key.
    """
    file = root / "meta" / "info.json"
    if not file.exists():
        raise EpisodeError(f"{root}: no meta/info.json; give the folder of one LeRobot dataset")
    info = Section.read(file, EpisodeError)
    version = info.text("codebase_version", "unknown")
    if version[:2] not in ("v2", "v3"):
        raise EpisodeError(f"{root}: LeRobot format {version!s:.40}; v2 and v3 are read")
    features, found = info.section("features"), {}
    for name in features.values:
        feature = features.section(name)
        shape = feature.list("shape", lambda part, key: part.whole(key, 0, MOST))
        found[name] = Feature(feature.text("dtype"), math.prod(shape))
    has_videos = any(feature.dtype == "video" for feature in found.values())
    return Description(
        root,
        version[:2],
        found,
        info.text("data_path"),
        info.text("video_path") if has_videos else "",
        info.whole("chunks_size", 1, MOST) if version[:2] == "v2" else 1,
        info.whole("total_episodes", 0, MOST) if "total_episodes" in info else None,
        info.whole("total_frames", 0, MOST) if "total_frames" in info else None,
        info.finite("fps", 0.01, 1e5) if "fps" in info else None,
    )


def read_index(described: Description) -> list[EpisodePlace]:
    """The dataset's episodes in order.

    Raises:
        EpisodeError: an unreadable index, or one of other episodes than the description says.
    """
    root = described.root
    places = sorted((_place(described, row) for row in _rows(described)), key=lambda place: place.index)
    if not places:
        raise EpisodeError(f"{root}: no episodes")
    if len({place.index for place in places}) < len(places):
        raise EpisodeError(f"{root}/meta: an episode is listed twice; download the index again")
    for what, listed, said in (
        ("episodes", len(places), described.episodes),
        ("frames", sum(place.length for place in places), described.steps),
    ):
        if said is not None and listed != said:
            raise EpisodeError(
                f"{root}/meta: the index lists {listed} {what}, info.json says total_{what} {said}; download both again"
            )
    return places


def _rows(described: Description) -> Iterator[Section]:
    """What the index says of each episode."""
    meta = described.root / "meta"
    if described.version == "v2":
        file = meta / "episodes.jsonl"
        with refusing(f"{file}: the index of episodes cannot be read", "download it again", EpisodeError):
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            yield from [
                Section(parsed(line), f"{file} line {i}", EpisodeError) for i, line in enumerate(lines, start=1)
            ]
    for file in sorted((meta / "episodes").rglob("*.parquet")) if described.version == "v3" else ():
        columns = read_rows(file)
        for i in range(len(next(iter(columns.values()), []))):
            yield Section({key: values[i] for key, values in columns.items()}, f"{file} row {i}", EpisodeError)


def _place(described: Description, row: Section) -> EpisodePlace:
    index = row.whole("episode_index", 0, MOST)
    videos: dict[str, tuple[Path, float | None]] = {}
    keys = {"episode_chunk": index // described.chunks_size, "episode_index": index}
    if described.version == "v3":
        keys = _file_keys(row, "data")
    for key in described.videos:
        if described.version == "v3":
            start = row.finite(f"videos/{key}/from_timestamp", 0, MOST)
            of_video = _file_keys(row, f"videos/{key}")
        else:
            start, of_video = None, keys
        videos[key] = described.file(described.video_path, video_key=key, **of_video), start
    task = next(iter(row.list("tasks", Section.text)), "")
    table = described.file(described.data_path, **keys)
    return EpisodePlace(table, index, row.whole("length", 1, MOST), task, videos)


def _file_keys(row: Section, part: str) -> dict[str, int]:
    return {name: row.whole(f"{part}/{name}", 0, MOST) for name in ("chunk_index", "file_index")}
