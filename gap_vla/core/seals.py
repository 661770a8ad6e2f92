"""What a finished run's `summary.json` holds to tell later edits by: digests of itself, of what stands beside it,
and of the checkpoint that the run exported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, content
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.run_settings import of_result

DIGESTS = "digests"
"""Key of `summary.json` with digests of files of the run."""

EXPORTED = "exported"
"""Key of `summary.json` with digests of the files of the checkpoint."""


def sealed(run: RunDirectory, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with digests of itself and of what stands beside it, for `require_sealed`."""
    return {**summary, DIGESTS: _digests(run, summary)}


def require_sealed(run: RunDirectory, summary: Section, moved: bool = False) -> None:
    """Raises the section's error if the settings, data, measurements or the summary itself were edited later.

    Args:
        run: whose summary it is.
        summary: as read; one of an older version has no digests, and nothing is compared. Of one that was copied
            alone, without `config.json`, only itself is.
        moved: what is no part of a policy may lie elsewhere.
    """
    written = summary.section(DIGESTS, {}).values
    now = _digests(run, {key: value for key, value in summary.values.items() if key != DIGESTS})
    if not written and EXPORTED in summary.values:  # which came with the digests
        raise summary.error(f"{summary.where}: its digests are missing; copy the run again")
    alone = not run.config.exists()
    for name in (now if alone else {**now, **written}) if written else ():
        if now.get(name) != written.get(name) and not (moved and name not in now):
            own = name == run.summary.name
            said = f"is not what it was when the run ended{'' if own else ', as summary.json says it'}"
            said = said if name in now else "is missing"
            where = summary.where if own else run.path / name
            raise summary.error(f"{where} {said}; copy the run again")


def _digests(run: RunDirectory, summary: Mapping[str, Any]) -> dict[str, str]:
    contents = {run.summary.name: json.dumps(summary, sort_keys=True).encode()}
    if run.config.exists():
        contents |= {path.name: content(path) for path in (run.dataset, run.metrics) if path.exists()}
        contents[run.config.name] = json.dumps(of_result(run.read_config()), sort_keys=True).encode()
    return {name: hashlib.sha256(found).hexdigest()[:16] for name, found in contents.items()}


def exported_digests(checkpoint: Path, files: Iterable[str]) -> dict[str, str]:
    """By name, digests of these files of a checkpoint, as far as they are there."""
    found = {}
    for name in files:
        if (checkpoint / name).is_file():
            with (checkpoint / name).open("rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    return found


def require_as_exported(checkpoint: Path, exported: Mapping[str, Any], error: type[UserError]) -> None:
    """Raises `error` if a file of a finished run's checkpoint is not the one of these digests."""
    names = (str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if exported)
    for name, found in exported_digests(checkpoint, exported.keys() & {*names}).items():
        if found != exported[name]:
            raise error(f"{checkpoint / name} is not what the run exported; copy the run again")
