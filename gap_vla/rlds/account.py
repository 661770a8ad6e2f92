"""What a dataset version says of itself beside its shards: `metadata.json`, and the mark of what we wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, content, one_line
from gap_vla.core.identity import digest
from gap_vla.core.marks import FOLDER_MARK, file_mark, unlike_mark
from gap_vla.rlds.schema import SCHEMA_VERSION
from gap_vla.rlds.shard_names import besides_of


def dataset_metadata(version_dir: str | Path) -> dict[str, Any]:
    """The dataset's own account: `identity`, `identity_hash`, `annotator`, `schema`, versions; of foreign data what is
    there under other names."""
    if not (path := Path(version_dir) / "metadata.json").exists():
        return {}
    said = Section.read(path, EpisodeError)
    own = {key for key in ("identity", "annotator", "schema") if key in said}
    if not {"identity_hash", "labelled_from"} & {*said.values}:  # what TFDS itself writes has any keys
        return {key: value for key, value in said.values.items() if key not in own}
    return {**said.values, **{key: said.section(key).values for key in own}}


def require_account(version_dir: Path) -> None:
    """Raises EpisodeError for a dataset whose `metadata.json` is of a newer version of ours, or was changed."""
    said = dataset_metadata(version_dir)
    identity = said.get("identity")
    version = identity.get("schema_version") if isinstance(identity, dict) else None
    if version is not None and (type(version) is not int or version > SCHEMA_VERSION):
        what = f"{version_dir / 'metadata.json'}: schema version {one_line(str(version), 40)}, this program knows "
        raise EpisodeError(f"{what}{SCHEMA_VERSION}; take a newer gap_vla, or copy the file again")
    if isinstance(identity, dict) and "identity_hash" in said and said["identity_hash"] != identity_hash(identity):
        what = f"{version_dir / 'metadata.json'}: identity_hash is not that of identity"
        raise EpisodeError(f"{what}; copy it again, or make the dataset again")


def identity_hash(identity: Mapping[str, Any]) -> str:
    """As `metadata.json` keeps it; "" of what no dataset of ours says, as NaN."""
    with contextlib.suppress(ValueError):
        return digest(identity, 16)
    return ""


def is_marked(version_dir: Path) -> bool:
    """Whether our mark lies there, be it damaged, and not a file of others that is called so."""
    mark = version_dir / FOLDER_MARK
    if not mark.is_file():
        return False
    with contextlib.suppress(EpisodeError):
        found = Section.read(mark, EpisodeError).values
        if "files" in found or (said := found.get("made_by")) is not None:
            return "files" in found or str(said).startswith("gap_vla")
    return "identity" in dataset_metadata(version_dir)


def unlike_written(version_dir: Path) -> dict[str, str]:
    """The files of a marked version that are not as they were written, and how; not those put beside them. A link
    stands for the file that it leads to, which may be kept elsewhere."""
    if not is_marked(version_dir):
        return {}
    said = {"missing": "is missing", "changed": "was changed since it was written"}
    found = unlike_mark(version_dir, EpisodeError).items()
    return {name: said[how] for name, how in found if how in said and not _leads_to_written(version_dir, name)}


def _leads_to_written(version_dir: Path, name: str) -> bool:
    """Whether a name is now a link to a file like the one that was written under it."""
    link = version_dir / name
    if not link.is_symlink():
        return False
    written = Section.read(version_dir / FOLDER_MARK, EpisodeError).section("files").values[name]
    return file_mark(Path(os.path.realpath(link))) == written


def require_unchanged(version_dir: Path, but: str = "", made_here: bool = True) -> None:
    """Raises EpisodeError if a file of a marked version, `but` one, is not as it was written.

    Args:
        made_here: by who asks, who would make it again; else it is only read, and may be somebody's own by now.
    """
    for name, how in unlike_written(version_dir).items():
        if name != but:
            advice = f"move {version_dir} away" if made_here else f"remove {FOLDER_MARK} if the change is yours"
            raise EpisodeError(f"{version_dir / name} {how}; copy it again, or {advice}")


def content_hash(version_dir: Path, used_for: str) -> str:
    """Hash of a dataset's description and shards, and of the text that says what it is used for; what others put beside
    them is left out as far as it is known (`besides_of`).

    Of shards the names and sizes are enough where our mark lies beside them, whose checksums are compared by who reads
    them; those of others are read whole.
    """
    if not (version_dir / "dataset_info.json").exists():
        raise EpisodeError(f"{version_dir}: no dataset_info.json; give the folder of one finished dataset version")
    total = hashlib.sha256(used_for.encode())
    marked = is_marked(version_dir)
    besides = besides_of(version_dir, marked)
    for path in sorted(version_dir.iterdir()):
        if path.name in besides or path.name.startswith("dataset_statistics_"):
            continue  # the latter is the cache that upstream Octo and OpenVLA leave beside the shards
        if path.name == FOLDER_MARK:  # names alone: an annotator says by which version it was made
            mark = Section.read(path, EpisodeError).values
            names = {**mark, "files": list(mark.get("files", ()))}
            total.update(f"{path.name}{json.dumps(names, indent=1)}\n".encode())
        elif path.suffix == ".json":
            total.update(path.name.encode() + content(path, EpisodeError))
        elif path.is_file():
            file = Path(os.path.realpath(path))  # a link may lead to other content than it did
            total.update(f"{path.name}{file.stat().st_size if marked else file_mark(file)}".encode())
    return total.hexdigest()[:16]
