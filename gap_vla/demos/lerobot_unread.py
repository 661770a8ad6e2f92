"""What a LeRobot dataset holds and nothing reads: what is there without what is read, named for the account."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.foreign import one_line
from gap_vla.demos.content import listed
from gap_vla.demos.layout import UNITS
from gap_vla.demos.lerobot_declared import PACKED, Description, has_odd_names

_READ = (
    "codebase_version", "features", "fps", "data_path", "video_path", "chunks_size", "total_episodes", "total_frames",
)  # fmt: skip
_OF_THE_WRITING = ("robot_type", "data_files_size_in_mb", "video_files_size_in_mb")
"""At the top of info.json: what is read, and what LeRobot writes for itself when it adds to the dataset."""

_OF_FEATURE = ("dtype", "shape", "names", "fps", "info", "video_info", "video.is_depth_map", "is_depth_map")
_OF_PICTURES = ("video.fps", "video.height", "video.width", "video.channels")
"""Of a feature, and of a camera: what is read."""

_OF_THE_CODING = tuple(
    f"video.{key}" for key in "codec pix_fmt g crf preset fast_decode extra_options video_backend".split()
)
"""How a film was coded, which ffmpeg sees for itself."""

_OF_TABLES = ("huggingface", "pandas", "ARROW:schema", "PARQUET:field_id", "content_defined_chunking")
"""With which libraries that write parquet repeat the kinds of its columns, or say how it is stored."""

_FILES = ("README.md", "meta/info.json", "meta/stats.json", "meta/episodes_stats.jsonl")
"""Files of every dataset beside tables, films and indices."""


def tell_totals(described: Description, episodes: int, tasks: int | None) -> None:
    """A note, where counts of info.json that nothing needs are not those of what is there: published datasets have them
    out of date."""
    odd = [
        f"{key} {one_line(str(described.said[key]), 60)} (here {right})"
        for key, right in _totals(described, episodes, tasks).items()
        if described.said.get(key, right) not in (right, None) and right is not None
    ]
    if odd:
        print(f"note: {described.root}/meta/info.json says {', '.join(odd)}; all that is here is taken", flush=True)


def _totals(described: Description, episodes: int, tasks: int | None) -> dict[str, Any]:
    """By version, since version 3 counts neither films nor folders."""
    films = sum("video" in feature.said["dtype"] for feature in described.features.values())
    second = {"total_videos": films * episodes, "total_chunks": -(-episodes // described.chunks_size)}
    return {"total_tasks": tasks, "splits": {"train": f"0:{episodes}"}} | (second if described.version == "v2" else {})


def of_info(described: Description, state: str, action: str, taken: Collection[str]) -> list[str]:
    """What info.json says at its top, and of the state, the action and others of its features that are `taken`."""
    top = {*map(str, described.said)} - {*_READ, *_OF_THE_WRITING, *_totals(described, 0, 0)}
    left: dict[str, list[str]] = {}
    for name in taken:
        feature = described.features[name]
        read = {*_OF_FEATURE, *(PACKED if name in (state, action) else ()), *(UNITS if name == state else ())}
        if feature.dtype in ("video", "image"):
            silent = not any(feature.said.get("has_audio", ()))
            read |= {*_OF_PICTURES, *_OF_THE_CODING, *(["has_audio"] if silent else [])}
        odd = ["names"] if has_odd_names(feature) else []
        for key in (*sorted(feature.keys - read), *odd):
            left.setdefault(key, []).append(name)
    return [f"{key} of info.json" for key in sorted(top)] + [f"{text} in info.json" for text in _joined(left)]


def of_tables(said: Iterable[tuple[Mapping[str, str], Mapping[str, Mapping[str, str]]]], state: str) -> list[str]:
    """What tables say of themselves and of their columns."""
    left: dict[str, list[str]] = {}
    for own, columns in said:
        for name, keys in (("tables", own), *columns.items()):
            for key in sorted({*keys} - {*_OF_TABLES, *([*PACKED, *UNITS] if name == state else ())}):
                if name not in (names := left.setdefault(key, [])):
                    names.append(name)
    return [f"metadata {text}" for text in _joined(left)]


def _joined(left: Mapping[str, list[str]]) -> list[str]:
    """A key that many have, once."""
    return [f"{key} of {names[0]}{f' and {len(names) - 1} more' * bool(names[1:])}" for key, names in left.items()]


def of_files(root: Path, read: Iterable[Path], besides: Collection[str]) -> list[str]:
    """Files, or folders of which nothing is read; but for films in folders of other features, which are named already.

    Numbered folders of one kind are named together.
    """
    known = {os.path.normpath(file) for file in (*read, *(root / name for name in _FILES))}
    above = {str(folder) for file in known for folder in Path(file).parents}
    found: dict[str, None] = {}
    for file in sorted(file for file in listed(root) if file.is_file()):
        parts = file.relative_to(root).parts
        if os.path.normpath(file) in known or (parts[0] == "videos" and {*besides} & {*parts}):
            continue
        own = next(one for one in (*[*file.parents][::-1], file) if os.path.normpath(one) not in above)
        found[re.sub(r"(chunk|episode|file)([-_])\d+", r"\1\2*", str(own.relative_to(root)))] = None
    return [*found]
