"""The place where a dataset comes into being: locked, resumable, and renamed to its final name when it is complete."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import message_of
from gap_vla.core.foreign import refusing
from gap_vla.core.identity import differences, digest, in_words
from gap_vla.core.locks import alone
from gap_vla.core.marks import FOLDER_MARK, made_by, others_in, unlike_mark
from gap_vla.core.outputs import claim, deliver
from gap_vla.core.whole import clear_leftovers, make_removable, write_json
from gap_vla.rlds.account import dataset_metadata
from gap_vla.rlds.schema import Schema
from gap_vla.rlds.shards import ACCOUNTS, remove_accounts
from gap_vla.rlds.version_files import VERSION, DatasetError, read_back

DESCRIPTION = "Robot demonstrations in RLDS with the motion-transition probability rho per step."
MODULE = "gap_vla.rlds"
"""What a dataset says of its origin if it was not written by a TFDS builder class."""

_MARK = "settings.json"
_MARKS = (_MARK, FOLDER_MARK)


def check_names(name: str, version: str) -> None:
    """Raises DatasetError for what is no name or no version of a dataset."""
    if not re.fullmatch("[a-z][a-z0-9_]{,189}", name):  # others TFDS writes, and does not find again
        rule = "at most 190 small letters a to z, digits and underscores, first a letter"
        raise DatasetError(f"dataset name {name!r}: use {rule}")
    if not VERSION.fullmatch(version):
        raise DatasetError(f"dataset version {version!r}: give three numbers, such as 1.0.0")


def alone_at(path: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a version directory, see `alone`."""
    return alone(path.with_name(f".{path.name}.lock"), f"{path.parent}")


@contextlib.contextmanager
def unfinished(path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> Iterator[Path | None]:
    """`data_dir/name/.version.partial`, for this process alone, in which the dataset `data_dir/name/version` is made.

    It keeps finished shards of an interrupted run with the same settings. Where none is finished, or an episode is
    refused, which other data alone can change, nothing is left. A folder into which somebody else put a file is neither
    used nor removed.

    Yields the folder; None if the dataset is there already, made with the same settings (JSON of everything that it
    depends on), so that nothing is left to do. Raises DatasetError: a different dataset (says what differs), or
    somebody's file, is in the way; InUseError: another writer is at work.
    """
    with alone_at(path):
        clear_leftovers(path.parent, path.name)
        partial = _unfinished(path)
        if path.exists():
            recorded = dataset_metadata(path)
            known, hashed = recorded.get("identity"), recorded.get("identity_hash")
            if (hashed == digest(settings, 16) or same_settings(known, settings)) and is_whole(path, overwrite):
                forget_replaced(path)
                yield None
                return
            if not overwrite:
                refuse_other(path, settings)
        claim(path, "dataset", named=False)  # what a link leads to is another dataset
        mark = partial / _MARK
        described = json.dumps(settings, indent=2) + "\n"
        _require_own(partial, path)
        if partial.exists() and not (mark.exists() and mark.read_text(errors="replace") == described):
            _discard(partial)
        partial.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # a file system without modes
            # as private as any other output in the making; `put` gives it the usual mode
            partial.chmod(0o700 | partial.stat().st_mode & stat.S_ISGID)
        write_json(mark, settings)
        try:
            yield partial
        except BaseException as error:
            if isinstance(error, EpisodeError) or not any(partial.glob(ACCOUNTS)):
                _discard_own(partial, path)
            raise


def forget_replaced(path: Path) -> None:
    """Removes what a kill left of the dataset that a whole one took the place of; needs the lock of `alone_at`."""
    clear_leftovers(path.parent, path.name)
    partial = _unfinished(path)
    if (partial / FOLDER_MARK).exists():
        _discard_own(partial, path)
    with contextlib.suppress(OSError):
        partial.rmdir()


def require_free(path: Path, overwrite: bool) -> None:
    """Raises DatasetError or UserError if a dataset could not be written there, before the work for it."""
    with alone_at(path):
        claim(path, "dataset", overwrite=overwrite, named=False)
        _require_own(_unfinished(path), path)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def as_recorded(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them. Raises DatasetError: a number that is none of JSON, or a name that is no text."""
    with refusing("identity, annotator or options", "give finite numbers, and texts for names", DatasetError):
        return json.loads(json.dumps(stated, allow_nan=False))  # type: ignore[no-any-return]


def same_settings(old: Any, new: Any) -> bool:
    """Whether `new` settings are the recorded `old` ones, in which a number of numpy may stand as its text.

    >>> same_settings({"seed": "2", "sigma": ["0.1"]}, {"seed": 2, "sigma": [0.10000000149011612]})
    True
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(same_settings(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same_settings, old, new))
    if isinstance(old, str) and isinstance(new, float):
        return float(short := np.float32(new)) == new and str(short) == old
    return bool(old == new or (isinstance(old, str) and isinstance(new, int) and str(new) == old))


def refuse_other(path: Path, settings: Mapping[str, Any]) -> NoReturn:
    """Raises DatasetError for an existing dataset that was made with others than these settings."""
    metadata, advice = dataset_metadata(path), "choose another name or version, or overwrite it"
    if not (recorded := metadata.get("identity")):
        raise DatasetError(f"{path} exists and was not written by gap_vla; choose another name or version")
    if "labelled_from" in metadata:
        raise DatasetError(f"{path} exists and is an annotated copy of another dataset; {advice}")
    known = {key: value for key, value in recorded.items() if key in settings}
    changed = in_words(differences(known, as_recorded(settings))) or "by its identity_hash"
    raise DatasetError(f"{path} exists and was made differently ({changed}); {advice}")


def is_whole(path: Path, overwrite: bool) -> bool:
    """Whether a dataset of the right settings is as it was written, so that nothing is left to do. Raises EpisodeError,
    which names the file: it is not, and must not be overwritten; DatasetError: nothing says how it was written."""
    if not (path / FOLDER_MARK).is_file():
        what = f"{path} has no {FOLDER_MARK}, so that nothing says whether it is as it was written"
        raise DatasetError(f"{what}; move it away, or choose another name or version")
    with contextlib.suppress(EpisodeError) if overwrite else contextlib.nullcontext():
        read_back(path)
        return True
    return False


def _require_own(partial: Path, path: Path) -> None:
    """Raises DatasetError if somebody put something into an unfinished dataset: what is none of the files of
    `write_rlds` and of an annotator, or where none of our marks is, what is not hidden."""
    own = (
        rf"{re.escape(partial.parent.name)}-(train|val)\.tfrecord-\d{{5,}}-of-\d{{5,}}(\.json|\.npz)?",
        r"(settings|metadata|features|dataset_info|dataset_statistics|made_by)\.json",
        r"annotator/(annotator|estimator|labels)\.(json|safetensors)",
    )
    others = others_in(partial, "|".join(own))
    if others and made_by(partial) == "dataset":
        strange = unlike_mark(partial, DatasetError)
        if _MARK not in strange:  # an old one, which may be a copy with more files
            others = [place for place in others if str(place.relative_to(partial)) in strange]
    if not any((partial / mark).exists() for mark in _MARKS):
        others += partial.glob("[!.]*")
    if others:
        raise DatasetError(f"{others[0]} lies where {path} would be made, without a mark of gap_vla; move it away")


def _discard(partial: Path) -> None:
    """Removes an unfinished dataset, or an old one, its marks last: what a kill leaves is known. Raises DatasetError:
    something in it belongs to another user."""
    make_removable(partial)
    try:
        for entry in sorted(partial.iterdir(), key=lambda entry: entry.name in _MARKS):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        partial.rmdir()
    except OSError as error:
        raise DatasetError(f"{partial} cannot be removed ({message_of(error)}); have it removed") from error


def _discard_own(partial: Path, path: Path) -> None:
    """`_discard`, unless somebody put something there."""
    with contextlib.suppress(OSError, DatasetError):
        _require_own(partial, path)
        _discard(partial)


def describe(
    partial: Path,
    settings: Mapping[str, Any],
    schema: Schema,
    shard_lengths: Mapping[str, Sequence[int]],
    shard_bytes: Sequence[int],
    *,
    module: str,
    description: str,
) -> None:
    """Writes TFDS' `dataset_info.json` and `features.json`, and our `metadata.json`; bytes are per shard, split after
    split. `module` and `description` are those of the builder class that writes the dataset."""
    import tensorflow_datasets as tfds

    remaining = iter(shard_bytes)
    splits = [
        tfds.core.SplitInfo(name=split, shard_lengths=list(counts), num_bytes=sum(next(remaining) for _ in counts))
        for split, counts in shard_lengths.items()
    ]
    version = tfds.core.Version(settings["version"])
    of_builder = tfds.core.dataset_info.DatasetIdentity(settings["name"], version, str(partial), module_name=module)
    info = tfds.core.DatasetInfo(builder=of_builder, description=description, features=schema.features())
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(str(partial))
    identity = {"identity": settings, "identity_hash": digest(settings, 16), "annotator": settings["annotator"]}
    write_json(partial / "metadata.json", {**identity, "schema": dataclasses.asdict(schema)})


def finish(partial: Path, path: Path, overwrite: bool) -> Path:
    """Gives the dataset its final name. Raises EpisodeError: it did not arrive whole on the disk; DatasetError:
    somebody put a file into it."""
    _require_own(partial, path)
    remove_accounts(partial)
    try:
        read_back(partial)
    except EpisodeError as error:  # whose advice is for a dataset that somebody has
        what = f"{path} did not arrive whole on the disk, and nothing of it is kept"
        why = f"{error}".rpartition("; ")[0] or f"{error}"
        raise EpisodeError(f"{what} ({why}); give the same command again") from error
    _require_own(partial, path)
    (partial / _MARK).replace(partial / FOLDER_MARK)  # it is ours at every moment
    deliver(partial, path, "dataset", overwrite=overwrite)
    if partial.exists():  # the old one, after the exchange
        try:
            _discard(partial)
        except DatasetError as error:
            print(f"note: what {path} took the place of: {error}", flush=True)
    return path
