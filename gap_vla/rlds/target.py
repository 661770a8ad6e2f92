"""The place where a dataset comes into being: locked, resumable, and renamed to its final name when it is complete."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.identity import differences, digest, in_words
from gap_vla.core.locks import alone
from gap_vla.core.outputs import claim, deliver
from gap_vla.core.whole import write_json
from gap_vla.rlds.schema import Schema
from gap_vla.rlds.shards import ACCOUNTS
from gap_vla.rlds.version_files import VERSION, DatasetError, dataset_metadata, read_back

DESCRIPTION = "Robot demonstrations in RLDS with the motion-transition probability rho per step."
MODULE = "gap_vla.rlds"
"""What a dataset says of its origin if it was not written by a TFDS builder class."""

_MARK = "settings.json"


def check_names(name: str, version: str) -> None:
    """Raises DatasetError for what is no name or no version of a dataset."""
    if not name.isidentifier():
        raise DatasetError(f"dataset name {name!r}: use letters, digits and underscores")
    if not VERSION.fullmatch(version):
        raise DatasetError(f"dataset version {version!r}: give three numbers, such as 1.0.0")


@contextlib.contextmanager
def unfinished(path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> Iterator[Path | None]:
    """`data_dir/name/.version.partial`, for this process alone, in which the dataset `data_dir/name/version` is made.

    It keeps finished shards of an interrupted run with the same settings. Where none is finished, or an episode is
    refused, which other data alone can change, nothing is left.

    Args:
        path: the final version directory.
        settings: everything that the dataset depends on; JSON.
        overwrite: replace an existing, different dataset.

    Yields:
        The folder; None if the dataset is there already, made with the same settings: nothing is left to do.

    Raises:
        DatasetError: a different dataset is in the way (says what differs). InUseError: another writer is at work.
    """
    with alone(path.with_name(f".{path.name}.lock"), f"{path.parent}"):
        if path.exists():
            recorded = dataset_metadata(path)
            if recorded.get("identity_hash") == digest(settings, 16):
                with contextlib.suppress(EpisodeError) if overwrite else contextlib.nullcontext():
                    read_back(path)
                    overwrite = False
                if not overwrite:
                    yield None
                    return
            if not overwrite and not recorded.get("identity"):
                raise DatasetError(f"{path} exists and was not written by gap_vla; choose another name or version")
            if not overwrite:
                changed = in_words(differences(recorded["identity"], settings))
                advice = "choose another name or version, or overwrite it"
                raise DatasetError(f"{path} exists and was made differently ({changed}); {advice}")
        claim(path, "dataset")
        partial = path.with_name(f".{path.name}.partial")
        mark = partial / _MARK
        described = json.dumps(settings, indent=2) + "\n"
        if os.path.lexists(partial) and not mark.is_file() and (not partial.is_dir() or any(partial.glob("[!.]*"))):
            raise DatasetError(f"{partial}, where {path} would be made, was not written by gap_vla; move it away")
        if partial.exists() and not (mark.exists() and mark.read_text() == described):
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        write_json(mark, settings)
        try:
            yield partial
        except BaseException as error:
            if isinstance(error, EpisodeError) or not any(partial.glob(ACCOUNTS)):
                shutil.rmtree(partial, ignore_errors=True)
            raise


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
    """Gives the dataset its final name; raises EpisodeError if it did not arrive whole on the disk."""
    read_back(partial)
    (partial / _MARK).unlink()
    deliver(partial, path, "dataset", overwrite=overwrite)
    shutil.rmtree(partial, ignore_errors=True)  # the old one, after the exchange
    return path
