"""The records of a shard as `tf.train.Example`s, which protobuf would read although they say something twice."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import one_line, refusing
from gap_vla.rlds.version_files import open_version, records, require_unchanged


def examples(file: Path) -> Iterator[Any]:
    """The `tf.train.Example`s of a shard; raises EpisodeError for a record that is none, or not only one."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    for record in records(file):
        with refusing(f"{file} holds something else than examples", "copy it again", EpisodeError, (DecodeError,)):
            example = tf.train.Example.FromString(record)
        if twice := _twice(record):
            raise EpisodeError(f"{file}: a record holds {twice} twice; copy it again, or convert the source again")
        yield example


def _twice(record: bytes) -> str:
    """What a serialized `tf.train.Example` holds twice, of which readers take the one or the other; empty: nothing.

    >>> one = b"\\x0a\\x03\\x0a\\x01a"  # a feature `a` without a value
    >>> features = [b"\\x0a" + bytes([len(one) * n]) + one * n for n in (1, 2)]
    >>> _twice(features[0]), _twice(features[1]), _twice(features[0] * 2)
    ('', "'a'", 'features')
    """
    parts = [part for number, part in _fields(record, 0, len(record)) if number == 1]
    if len(parts) > 1:
        return "features"
    keys = [
        record[slice(*next(key for number, key in _fields(record, *entry) if number == 1))]
        for part in parts
        for number, entry in _fields(record, *part)
        if number == 1
    ]
    again = [key for key, count in collections.Counter(keys).items() if count > 1]
    return repr(one_line(again[0].decode(errors="replace"), 60)) if again else ""


def _fields(message: bytes, begin: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Numbers and places of the fields of a protobuf message, which has been parsed, that have a length."""
    while begin < end:
        tag, begin = _varint(message, begin)
        if tag & 7 == 2:
            length, begin = _varint(message, begin)
            yield tag >> 3, (begin, begin + length)
            begin += length
        elif tag & 7 == 0:
            begin = _varint(message, begin)[1]
        else:
            begin += {1: 8, 5: 4}.get(tag & 7, end)


def _varint(message: bytes, begin: int) -> tuple[int, int]:
    """A number, and where the next begins."""
    value = shift = 0
    while True:
        value |= (message[begin] & 127) << shift
        shift, begin = shift + 7, begin + 1
        if message[begin - 1] < 128:
            return value, begin


def require_examples(builder: Any) -> None:
    """Reads every record of a dataset; TFDS itself passes over what follows behind the fields that it knows."""
    for split in builder.info.splits.values():
        for file in split.filepaths:
            collections.deque(examples(Path(str(file))), maxlen=0)


def read_back(version_dir: Path) -> None:
    """Reads every record of a version; raises EpisodeError if it, or another of its files, did not arrive whole, or was
    changed since. Files that were put beside them are nobody's business."""
    require_examples(open_version(version_dir))
    require_unchanged(version_dir)
