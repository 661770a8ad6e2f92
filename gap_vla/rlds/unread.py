"""What an RLDS dataset holds and nobody reads, by name: what is there without what is read there.

Of step fields each reader knows which it takes; which ones are compared beside them, `is_compared` says by name, kind
and shape.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import Section, one_line, parsed, shown
from gap_vla.core.identity import flat
from gap_vla.demos import layout
from gap_vla.demos.beside import ENDS, FLAGS, TIMES
from gap_vla.demos.fields import is_blank
from gap_vla.demos.layout import METRES
from gap_vla.rlds.schema import LANGUAGE
from gap_vla.rlds.version_files import examples

OF_EPISODE = ("episode_id", "episode_index", "task_index")
"""Step fields that say of which recording a step is."""

UNITS = (*layout.UNITS, "length_unit", "length_units", "position_unit", "position_units")
"""Of the metadata of an episode: in which positions are."""

_INFO = ("name", "version", "splits", "fileFormat")
_PROSE = ("citation", "description", "location", "moduleName", "releaseNotes", "redistributionInfo")
"""Of `dataset_info.json`: for people, and the class that wrote it."""
_SPLIT = ("name", "shardLengths", "numBytes", "filepathTemplate")
_METADATA = ("identity", "identity_hash", "annotator", "schema", "labelled_from")
_FEATURES = (
    "pythonClassName", "featuresDict", "features", "sequence", "feature", "length", "tensor", "shape", "dimensions",
    "dtype", "encoding", "image", "encodingFormat", "text", "classLabel", "numClasses",
)  # fmt: skip
_EXTRA = "episode_metadata/extra_json"
_RAGGED = re.compile("/ragged_(flat_values|row_lengths_[0-9]+)$")


def is_time(name: str) -> bool:
    """Whether a step field of this name holds times, of which none is earlier than the one before."""
    key = name.rpartition("/")[2].lower()
    return key in TIMES or key.endswith("_timestamp")


def is_compared(name: str, dtype: np.dtype, shape: Sequence[int | None]) -> bool:
    """Whether `reader.check_steps` looks at a step field of this kind, and of this shape in a step."""
    key = name.rpartition("/")[2]
    if key in OF_EPISODE:
        return True
    single, numbers = all(size == 1 for size in shape), dtype.kind in "biufV"  # the latter of TensorFlow's own
    if is_time(name):
        return numbers and dtype.kind != "b" and (single or len(shape) == 1)
    if name in FLAGS:
        return numbers and single
    return numbers and (key in ENDS or name in ("reward", "discount"))


def changing(fields: Mapping[str, Any]) -> Iterator[str]:
    """Says which fields that name the recording of a step do not name the same one at all steps; `episode_index` of the
    steps themselves is one of those that are `misplaced`."""
    for name, values in fields.items():
        rows = np.asarray(values)
        if name.rpartition("/")[2] in OF_EPISODE and name != "episode_index" and rows.size:
            rows = rows.reshape(len(rows), -1)
            if len(changed := np.flatnonzero((rows[1:] != rows[:-1]).any(1))):
                yield f"{name} changes at step {changed[0] + 1} of {len(rows)}"


def declared(features: Any) -> Iterator[tuple[str, np.dtype, tuple[int | None, ...]]]:
    """Every field of `features.json`: its path, dtype and shape, of the steps that in a step: of a Dataset TFDS gives
    it without their axis, of a Sequence with it."""
    with_axis = type(features["steps"]).__name__ == "Sequence"
    for path, info in flat(features.get_tensor_info(), separator="/"):
        shape = tuple(getattr(info, "shape", None) or ())
        dtype = np.dtype(getattr(info, "np_dtype", None) or object)
        yield path, dtype, shape[1:] if with_axis and path.startswith("steps/") else shape


def spoken(features: Any) -> set[str]:
    """The step fields that tell the instruction, one text a step."""
    found = {path.removeprefix("steps/"): (dtype.kind, shape) for path, dtype, shape in declared(features)}
    return {name for name in LANGUAGE if found.get(name) == ("O", ())}


def other_units(said: Iterable[tuple[str, str, Any]]) -> Iterator[str]:
    """Of places in the metadata, their names in small letters and values: which say that lengths are no metres."""
    for place, key, value in said:
        words = re.split(r"[\s()\[\],;]+", value.lower().strip(" ()[]")) if isinstance(value, str) else ()
        if key in UNITS and any(word and word not in METRES for word in words):
            yield f"{place} is {shown(value)}; positions are read as metres: rescale them, or correct it"


def of_fields(features: Any, taken: Collection[str]) -> set[str]:
    """The fields of `features.json` that are neither `taken` nor compared."""
    return {
        path
        for path, dtype, shape in declared(features)
        if path not in taken
        and not (path.startswith("steps/") and is_compared(path.removeprefix("steps/"), dtype, shape))
    }


def of_version(version_dir: Path) -> set[str]:
    """What its JSON files say and nobody reads."""
    info = Section.read(version_dir / "dataset_info.json", EpisodeError).values
    found = {f"{key} in dataset_info.json" for key in _said(info) if key not in (*_INFO, *_PROSE)}
    for split in info["splits"]:
        statistics = split.get("statistics")  # of which the number of episodes is compared
        nested = [f"statistics.{key}" for key in statistics or () if key not in ("name", "numExamples")]
        plain = [key for key in _said(split) if key not in _SPLIT and key != "statistics"]
        found |= {f"splits.{key} in dataset_info.json" for key in (*plain, *nested)}
    features = Section.read(version_dir / "features.json", EpisodeError).values
    found |= {f"{key} in features.json" for key in _keys(features) if key not in _FEATURES}
    if (file := version_dir / "metadata.json").exists():
        said = Section.read(file, EpisodeError).values
        ours = _METADATA if {"identity_hash", "labelled_from"} & {*said} else ()
        found |= {f"{key} in metadata.json" for key in _said(said) if key not in ours}
    return found


def stored_fields(features: Any) -> set[str]:
    """The names under which a record holds the fields of `features.json`."""
    return {path for path, _ in flat(features.get_serialized_info(), separator="/")}


def of_record(example: Any, fields: Collection[str], known: Collection[str] | None = ()) -> set[str]:
    """Of one record what is none of the `fields` of `features.json`, and what its `extra_json` says under names that
    are not `known`, in small letters; None: all are."""
    stored = example.features.feature
    lacking = (key for key in stored if key not in fields and _RAGGED.sub("", key) not in fields)
    found = {f"{key} (not in features.json)" for key in lacking}
    for text in stored[_EXTRA].bytes_list.value if _EXTRA in stored and known is not None else ():
        try:
            said = parsed(text or b"{}")
        except ValueError:  # which the readers name
            continue
        found |= {f"{key} in extra_json" for key in _said(said) if key.lower() not in (known or ())}
    return found


def of_first(info: Any, split: str, known: Collection[str] | None) -> set[str]:
    """`of_record` of the first one of a split."""
    files = [Path(str(file)) for file in info.splits[split].filepaths] if split in info.splits else []
    every = itertools.chain.from_iterable(map(examples, files))
    fields = stored_fields(info.features)
    found = (of_record(one, fields, known) for one in every)
    return next(found, set())


def listed(names: Iterable[str]) -> str:
    return one_line(", ".join(sorted(names)), 2000)


def _said(about: Any) -> list[str]:
    """The names of what is not empty."""
    pairs = about.items() if isinstance(about, Mapping) else ()
    return [key for key, value in pairs if value is not None and not is_blank(value) and value not in ([], {})]


def _keys(tree: Any, named: bool = False) -> Iterator[str]:
    """The keys of a description that are not the name of a field."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        if not named:
            yield key
        yield from _keys(value, named=key == "features" and not named)
