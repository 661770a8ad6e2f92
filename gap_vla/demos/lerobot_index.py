"""Where each episode of a LeRobot dataset lies: one file per episode (v2), or ranges of shared files (v3)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.episode import EpisodeError


@dataclasses.dataclass(frozen=True)
class EpisodePlace:
    """One episode: its table, its number in it, its length, its instruction, and per camera (video, start in s)."""

    table: Path
    index: int
    length: int
    task: str
    videos: dict[str, tuple[Path, float]]


def read_index(root: Path, info: Mapping[str, Any]) -> list[EpisodePlace]:
    """The dataset's episodes in order.

    Raises:
        EpisodeError: a format that is neither v2 nor v3, or an unreadable index.
    """
    version = str(info.get("codebase_version", ""))
    cameras = [key for key, value in info["features"].items() if value["dtype"] == "video"]
    try:
        if version.startswith("v2"):
            places = _version_2(root, info, cameras)
        elif version.startswith("v3"):
            places = _version_3(root, info, cameras)
        else:
            raise EpisodeError(f"{root}: LeRobot format {version or 'unknown'}; v2 and v3 are read")
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise EpisodeError(
            f"{root}/meta: the index of episodes cannot be read ({error!r}); download it again"
        ) from None
    if not places:
        raise EpisodeError(f"{root}: no episodes")
    return places


def _version_2(root: Path, info: Mapping[str, Any], cameras: list[str]) -> list[EpisodePlace]:
    places = []
    for line in (root / "meta" / "episodes.jsonl").read_text().splitlines():
        row = json.loads(line)
        index = row["episode_index"]
        keys = {"episode_chunk": index // info["chunks_size"], "episode_index": index}
        videos = {key: (root / info["video_path"].format(video_key=key, **keys), 0.0) for key in cameras}
        table = root / info["data_path"].format(**keys)
        places.append(EpisodePlace(table, index, row["length"], _task(row["tasks"]), videos))
    return sorted(places, key=lambda place: place.index)


def _version_3(root: Path, info: Mapping[str, Any], cameras: list[str]) -> list[EpisodePlace]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = []
    for file in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        try:
            rows = pq.read_table(file).to_pylist()
        except pa.ArrowException as error:
            raise EpisodeError(f"{file}: the table cannot be read ({error}); download it again") from None
        for row in rows:
            table = root / info["data_path"].format(
                chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            )
            videos = {
                key: (
                    root
                    / info["video_path"].format(
                        video_key=key,
                        chunk_index=row[f"videos/{key}/chunk_index"],
                        file_index=row[f"videos/{key}/file_index"],
                    ),
                    float(row[f"videos/{key}/from_timestamp"]),
                )
                for key in cameras
            }
            places.append(EpisodePlace(table, row["episode_index"], row["length"], _task(row["tasks"]), videos))
    return sorted(places, key=lambda place: place.index)


def _task(tasks: list[str]) -> str:
    return tasks[0] if tasks else ""
