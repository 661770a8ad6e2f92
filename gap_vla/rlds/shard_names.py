"""The names of a dataset version's shards, as TFDS makes them, and of what copiers and people leave beside them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section
from gap_vla.core.marks import FOLDER_MARK

_DESCRIPTION = ("dataset_info.json", "features.json", "metadata.json")


def shards_of(version_dir: Path, split: str) -> list[Path]:
    """The files that are a split's by the template of its names in `dataset_info.json`, in order. Raises EpisodeError:
    that is damaged."""
    info = Section.read(version_dir / "dataset_info.json", EpisodeError)
    splits = (one for one in info.list("splits", Section.section) if one.text("name") == split)
    templates = [_template(info, one) for one in splits]
    return sorted(path for path in version_dir.iterdir() if any(one.fullmatch(path.name) for one in templates))


def _template(info: Section, split: Section) -> re.Pattern[str]:
    """The names of a split's shards, as TFDS makes them; those of copiers' leftovers (`copy_of`) go on."""
    name, lengths = info.text("name", ""), split.values.get("shardLengths")
    number = rf"\d{{{max(5, len(str(len(lengths) if isinstance(lengths, list) else 0)))}}}"
    parts = {
        "DATASET": re.escape(name) or r"[^.].*",
        "SPLIT": re.escape(split.text("name")),
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": number,
        "NUM_SHARDS": number,
        "SHARD_X_OF_Y": f"{number}-of-{number}",
    }
    template = (name and split.text("filepathTemplate", "")) or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    return re.compile(re.sub(r"\\\{([A-Z_]+)\\\}", lambda found: parts.get(found[1], found[0]), re.escape(template)))


def copy_of(shard: str, name: str) -> bool:
    """Whether a copier made a file beside a shard: `SHARD_.gstmp`, `….partial`, `SHARD (1)`, `SHARD~`."""
    return name.startswith(shard) and name[len(shard) :][:1] in tuple("_. ~")


def besides_of(version_dir: Path, marked: bool) -> set[str]:
    """Names of what others put beside a dataset and no reader takes for a part of it: hidden files, copiers' leftovers,
    and, beside files that our mark lists, all others."""
    names, shards = {path.name for path in version_dir.iterdir()}, set[str]()
    with contextlib.suppress(EpisodeError):  # a damaged description is refused by who reads it
        info = Section.read(version_dir / "dataset_info.json", EpisodeError)
        for template in (_template(info, split) for split in info.list("splits", Section.section)):
            shards |= {name for name in names if template.fullmatch(name)}
    own = shards | {*_DESCRIPTION, FOLDER_MARK}
    listed = marked and Section.read(version_dir / FOLDER_MARK, EpisodeError).values.get("files")
    return {
        name
        for name in names - own
        if name.startswith(".")
        or (listed and name not in listed)
        or (not name.endswith(".json") and any(copy_of(one, name) for one in own))  # TFDS' own are `SHARD_index.json`
    }
