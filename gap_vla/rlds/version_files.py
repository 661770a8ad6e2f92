"""The files of one RLDS dataset version: looked at before TFDS reads them, counted after they are written.

TFDS imports the modules that `features.json` names; only features of TFDS itself are let through. Shards are compared
with what `dataset_info.json` says of them, and the features of a dataset of ours with what it was written with.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import UserError, is_full_disk
from gap_vla.core.foreign import Section, one_line, real_path, refusing, whole
from gap_vla.core.identity import flat
from gap_vla.core.marks import FOLDER_MARK, file_mark
from gap_vla.core.resources import existing_parent
from gap_vla.rlds.account import dataset_metadata, is_marked, require_unchanged
from gap_vla.rlds.schema import SCHEMA_VERSION, Schema
from gap_vla.rlds.shard_names import copy_of

VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", re.ASCII)

BUILDERS = Path(__file__).parents[2] / "rlds_builders"
"""The folders of builders, where this package lies in a checkout."""

MOST = 2**40
_OWN = ("tensorflow_datasets.core.features.", "tensorflow_datasets.")


class DatasetError(UserError, RuntimeError):
    """A dataset that cannot be written, or that is not the one that was asked for."""


@contextlib.contextmanager
def naming_a_full_disk(directory: Path, kept: str) -> Iterator[None]:
    """Errors of a full disk become a DatasetError that says what the same command finds (`kept`); all others pass."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise DatasetError(
            f"no space left on the disk of {directory} (or a quota or limit is reached, or what is printed goes to a "
            f"full disk); free some and run the same command again: {kept}"
        ) from None


def open_version(version_dir: Path, *, shards: bool = True) -> Any:
    """`tfds.builder_from_directory` of a checked version; without its `shards`, of its description alone. Raises
    EpisodeError that names the file: it is missing, damaged, of another dataset, or has features of other libraries."""
    if not version_dir.exists():
        existing_parent(version_dir)
    for needed in ("dataset_info.json", "features.json"):
        if not (version_dir / needed).exists():
            raise EpisodeError(
                f"{version_dir}: no {needed}; give the folder of one finished dataset version, e.g. "
                f"data/threading/1.0.0"
            )
    info = Section.read(version_dir / "dataset_info.json", EpisodeError)
    if (kind := info.values.get("fileFormat", "tfrecord")) != "tfrecord":
        raise EpisodeError(f"{info.where}: files are {one_line(str(kind), 40)}; write the dataset as tfrecord")
    features = Section.read(version_dir / "features.json", EpisodeError)
    for name in _class_names(features.values):
        if not isinstance(name, str) or not name.startswith(_OWN):
            raise EpisodeError(
                f"{version_dir / 'features.json'}: a feature of class {one_line(repr(name), 80)}; only those of "
                "tensorflow_datasets are read, nothing else is imported"
            )
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import Error as JsonError
    from google.protobuf.message import Error

    advice = "copy dataset_info.json and features.json again"
    folder = os.path.realpath(version_dir) if ".." in version_dir.parts else version_dir  # tfds takes `link/..` for `.`
    with refusing(f"{version_dir}: cannot be opened", advice, EpisodeError, (Error, JsonError)):
        builder = tfds.builder_from_directory(str(folder))
        known = dict(getattr(builder.info.features, "items", dict)())
    steps = known.get("steps")
    if not (isinstance(steps, tfds.features.Dataset) and hasattr(steps.feature, "items")):
        found = one_line(", ".join(f"{name}: {type(one).__name__}" for name, one in known.items())) or "none"
        raise EpisodeError(f"{version_dir}: no Dataset 'steps' among the features ({found}); this is not RLDS")
    for path, info_of in flat(builder.info.features.get_tensor_info(), separator="/"):
        if 0 in (getattr(info_of, "shape", None) or ()):
            raise EpisodeError(f"{features.where}: {path} has no values (shape {info_of.shape}); leave it out")
    for path, info_of in flat(builder.info.features.get_serialized_info(), separator="/"):
        if getattr(info_of, "sequence_rank", 0) > 1 and info_of.shape.count(None) < 2:
            text = f"{features.where}: {path} is a Sequence of a stated length, which TFDS writes and does not read; "
            raise EpisodeError(text + "write the dataset again, with a Tensor in its place")
    if VERSION.fullmatch(name := real_path(version_dir).name) and name != (said := str(builder.info.version)):
        raise EpisodeError(f"{info.where} says version {one_line(said, 40)}, its folder {name}; correct one of them")
    with refusing(f"{version_dir}: its splits cannot be read", advice, EpisodeError):
        if shards:
            _check_shards(builder, info, version_dir)
    if shards and dict(flat(dataset_metadata(version_dir))).get("identity.schema_version") == SCHEMA_VERSION:
        _check_schema(builder.info.features, version_dir)
    return builder


def _check_schema(features: Any, version_dir: Path) -> None:
    """Compares the features of a dataset of ours with those that it was written with; more may have been added."""
    with refusing(f"{version_dir / 'metadata.json'}: schema", "copy the dataset again", EpisodeError):
        written = Schema(**dataset_metadata(version_dir)["schema"]).features()
    found, wanted = (dict(flat(one.get_tensor_info(), separator="/")) for one in (features, written))
    if odd := sorted(key for key in wanted if str(found.get(key)) != str(wanted[key])):
        raise EpisodeError(
            f"{version_dir / 'features.json'}: {odd[0]} is {found.get(odd[0], 'missing')}, by metadata.json it was "
            f"written as {wanted[odd[0]]}; copy both again"
        )


def _class_names(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("pythonClassName", "python_class_name", "type") and not isinstance(part, (dict, list)):
                yield part
            yield from _class_names(part)
    elif isinstance(value, list):
        for part in value:
            yield from _class_names(part)


def _check_shards(builder: Any, info: Section, version_dir: Path) -> None:
    nobodys = {file.name for file in version_dir.glob("[!.]*.tfrecord*")}  # hidden ones are a file system's
    whose: dict[str, str] = {}
    shards: set[str] = set()
    info.require("name")
    described = info.list("splits", Section.section)
    if len({split.text("name") for split in described}) < len(described):
        raise EpisodeError(f"{info.where} lists a split twice; remove one entry")
    for split in described:
        if not re.fullmatch(r"([\w.-]|\{[A-Z_]+\})*", template := split.text("filepathTemplate", "")):
            raise EpisodeError(
                f"{split.name('filepathTemplate')} is {one_line(template, 60)!r}, no name; copy it again"
            )
        files = [Path(str(file)) for file in builder.info.splits[split.text("name")].filepaths]
        check_files(split, files, version_dir)
        nobodys -= (names := {file.name for file in files})
        shards |= names
        for file in files:
            if (place := os.path.realpath(file)) in whose:
                raise EpisodeError(
                    f"{split.where}: {file.name} is one of {whose[place]}, too; correct filepathTemplate"
                )
            whose[place] = split.text("name")
    nobodys = {name for name in nobodys if not any(copy_of(shard, name) for shard in shards)}
    if nobodys:
        raise EpisodeError(
            f"{info.where} has no split with {min(nobodys)}, which lies beside it; move that file away, or copy "
            "dataset_info.json again"
        )


def check_files(split: Section, files: Sequence[Path], version_dir: Path) -> None:
    """Raises EpisodeError if `dataset_info.json` says other files of a split, or numbers of records, than there are."""
    lengths = split.list(
        "shardLengths", lambda part, key: whole(part.name(key), int(part.values[key]), 0, MOST, EpisodeError)
    )
    if len(files) != len(lengths):
        raise EpisodeError(f"{split.where}: {len(lengths)} files, {len(files)} are there; copy the whole dataset")
    for file, said in zip(files, lengths):
        if not file.is_file() or real_path(file.parent) != real_path(version_dir):
            what = "is missing, in another folder or no regular file"
            raise EpisodeError(f"{file} {what}; copy the whole dataset or build it again")
        place, found, size = 0, 0, file.stat().st_size
        with open(file, "rb") as stream:
            while place < size and found <= said:
                stream.seek(place)
                place += 16 + int.from_bytes(stream.read(8), "little")
                found += 1
        if found != said:
            what = "is empty" if not size else f"holds {found if found < said else f'more than {said}'}"
            # a record's length is what says where the next begins
            what += ", or is damaged" if found > said or place != size else ""
            raise EpisodeError(f"{file} {what}, dataset_info.json says {said} episodes; copy the file again")
        if place != size:
            raise EpisodeError(f"{file} is truncated or damaged, its last record ends elsewhere; copy the file again")


def without_clock() -> Any:
    """`tf.data.Options` of iterators that end at once. TensorFlow's thread that tunes them waits until a time of the
    day, and their end waits for that thread: for an hour, where the machine's clock was set back by one."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def records(file: Path) -> Iterator[bytes]:
    """The bytes of the records of a shard, their checksums compared; raises EpisodeError for a damaged one."""
    import tensorflow as tf

    with refusing(f"{file} is truncated or damaged", "copy or write it again", EpisodeError, (tf.errors.OpError,)):
        yield from tf.data.TFRecordDataset(str(file)).with_options(without_clock()).as_numpy_iterator()


def examples(file: Path) -> Iterator[Any]:
    """The `tf.train.Example`s of a shard; raises EpisodeError for a record that is none, or not only one."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    for record in records(file):
        with refusing(f"{file} holds something else than examples", "copy it again", EpisodeError, (DecodeError,)):
            example = tf.train.Example.FromString(record)
        if twice := _twice(record):  # readers take the one or the other
            raise EpisodeError(f"{file}: a record holds {twice} twice; copy it again, or convert the source again")
        yield example


def _twice(record: bytes) -> str:
    """What a serialized `tf.train.Example` holds twice; empty: nothing."""
    parts = _listing().FromString(record).features
    keys = collections.Counter(entry.key for part in parts for entry in part.feature)
    again = [repr(one_line(key.decode(errors="replace"), 60)) for key, count in keys.items() if count > 1]
    return "features" if len(parts) > 1 else "".join(again[:1])


@functools.cache
def _listing() -> Any:
    """The message `tf.train.Example` with lists in the places of its map and of its one part, as it lies in a file."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="listing.proto", package="listing", syntax="proto3")
    for name, field in (("Example", "features"), ("Features", "feature"), ("Entry", "key")):
        listed = {"type": kinds.TYPE_MESSAGE, "label": kinds.LABEL_REPEATED}
        listed |= {"type_name": ".listing.Features" if name == "Example" else ".listing.Entry"}
        key = {"type": kinds.TYPE_BYTES, "label": kinds.LABEL_OPTIONAL}
        file.message_type.add(name=name).field.add(name=field, number=1, **(key if field == "key" else listed))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("listing.Example"))


def require_examples(builder: Any) -> None:
    """Reads every record of a dataset; TFDS itself passes over what follows behind the fields that it knows."""
    for split in builder.info.splits.values():
        for file in split.filepaths:
            collections.deque(examples(Path(str(file))), maxlen=0)


def require_split_unchanged(version_dir: Path, split: str) -> None:
    """Raises EpisodeError if a file of a marked version that this split is read from is not as it was written."""
    if not is_marked(version_dir):
        return
    written = Section.read(version_dir / FOLDER_MARK, EpisodeError).section("files").values
    splits = open_version(version_dir, shards=False).info.splits
    shards = splits[split].filenames if split in splits else ()
    for file in (version_dir / name for name in ("features.json", "metadata.json", *sorted(shards)) if name in written):
        if file_mark(Path(os.path.realpath(file))) != written[file.name]:
            how = "was changed since it was written" if file.exists() else "is missing"
            raise EpisodeError(f"{file} {how}; copy it again, or remove {FOLDER_MARK} if the change is yours")


def read_back(version_dir: Path) -> None:
    """Reads every record of a version; raises EpisodeError if it, or another of its files, did not arrive whole, or was
    changed since. Files that were put beside them are nobody's business."""
    require_examples(open_version(version_dir))
    require_unchanged(version_dir)
