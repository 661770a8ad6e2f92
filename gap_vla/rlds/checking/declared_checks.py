"""Checks of what a dataset says of itself, twice or beside its data: instructions, counts, times, names, files."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import content, one_line, parsed, shown
from gap_vla.demos.beside import COUNTERS, COUNTS, PER_STEP, TIMES, counts_others, require_rows, tells
from gap_vla.demos.fields import as_truth, is_blank
from gap_vla.phases import load_annotator
from gap_vla.rlds.account import dataset_metadata, identity_hash, is_marked
from gap_vla.rlds.checking.report import Finding, Recording
from gap_vla.rlds.schema import LANGUAGE, SCHEMA_VERSION
from gap_vla.rlds.unread import UNITS, declared, listed, of_fields, of_version, other_units

RATES = ("fps", "hz", "control_freq", "control_frequency", "control_hz", "frequency", "frame_rate", "sampling_rate")
"""Names of numbers that say how many steps a second has."""
_INSTRUCTIONS = ("language_instruction", "natural_language_instruction", "instruction")
_ABOUT = ("success", "episode_id", "file_path")
_SECONDS = (1.0, 1e-3, 1e-6, 1e-9)
"""What stored times may count."""
_OTHER_RATE = 1.5
"""Times the stated rate, or parts of it, from which on times tell another one."""
_FINE = 1e-3
"""What times in float32 must tell apart, where they say a rate."""
_SHARD = re.compile(r"(.+)-([^-]+)\.tfrecord")


def check_instructions(episode: Recording) -> Iterator[Finding]:
    """All fields that tell the instruction tell the same one, also those of the metadata."""
    told = [(name, episode.texts[name]) for name in LANGUAGE if name in episode.texts]
    for (first, texts), (other, others) in itertools.pairwise(told):
        for step, (one, two) in enumerate(zip(texts, others)):
            if one.strip() != two.strip() and not is_blank(one) and not is_blank(two):
                text = f"{first} is {shown(one)} and {other} {shown(two)}; the first is read: correct one of them"
                yield Finding("warning", "language", text, episode.name, step)
                break
    first = next((text for text in episode.language if not is_blank(text)), "")
    for place, key, value in _said(episode):
        if key in _INSTRUCTIONS and isinstance(value, str) and not is_blank(value) and first.strip() != value.strip():
            text = f"{place} is {shown(value)}, the instruction of the steps {shown(first)}, which is read; correct one"
            yield Finding("warning", "language", text, episode.name)


def check_counters(episode: Recording) -> Iterator[Finding]:
    """Numbers of steps count up, and no step is marked as one that was not measured."""
    for name, rows in episode.fields.items():
        key = name.rpartition("/")[2].lower()
        timed = key in (*PER_STEP, *TIMES, *COUNTS) or key.endswith("_timestamp")
        if timed or not tells(name) or len(episode) < 2 or rows.size != len(rows):
            continue
        try:
            require_rows(name, rows, len(episode), "steps")
        except EpisodeError as error:
            back = key in COUNTERS and (np.diff(rows.ravel().astype(float)) <= 0).any()
            yield Finding("error" if back else "warning", "structure", str(error), episode.name)


def check_counts(episode: Recording) -> Iterator[Finding]:
    """Counts of steps in the metadata are those of the episode; as some count transitions, one less or more may be."""
    for place, key, value in _said(episode):
        if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value.strip()):
            value = int(value)
        if key in COUNTS and counts_others(key, value, len(episode)):
            text = f"{place} says {value} steps, there are {len(episode)}; correct it, or convert the source again"
            near = abs(value - len(episode)) == 1
            yield Finding("warning" if near else "error", "structure", text, episode.name)


def check_success(episode: Recording) -> Iterator[Finding]:
    """Success is a truth value, and what the last step and the rewards say."""
    if is_blank(episode.about.get("success", "")):
        return
    try:
        success = as_truth(episode.about["success"], "episode_metadata/success")
    except EpisodeError as error:
        yield Finding("error", "success", str(error), episode.name)
        return
    terminal, reward = (episode.fields.get(name) for name in ("is_terminal", "reward"))
    if terminal is None or reward is None or reward.size != len(episode):
        return
    reward = reward.ravel()
    if not success and terminal.any() and reward[-1] > 0 and not reward[:-1].any():
        text = "success is false, and the last step is terminal with a reward"
    elif success and not terminal.any() and (reward == reward[0]).all() and reward[0] <= 0:
        text = "success is true, no step is terminal, and none has a reward of its own"
    else:
        return
    yield Finding("warning", "success", text + "; correct one of them", episode.name)


def check_metadata(episode: Recording) -> Iterator[Finding]:
    """What stands in the metadata twice is the same, numbers are numbers, and lengths are metres."""
    for place, _, value in _said(episode):
        if not all(map(np.isfinite, _numbers_in(value))):
            text = f"{place} is {one_line(str(value), 40)}; correct it, or leave it out"
            yield Finding("warning", "finite", text, episode.name)
    for key in _ABOUT:
        here, there = episode.about.get(key, ""), episode.extra.get(key, "")
        if is_blank(here) or is_blank(there):
            continue
        same = str(here) == str(there)
        if key == "success":
            with contextlib.suppress(EpisodeError):
                same = as_truth(here, key) == as_truth(there, key)
        if not same:
            text = f"episode_metadata/{key} is {shown(here)}, {key} in extra_json {shown(there)}; correct one of them"
            yield Finding("warning", "metadata", text, episode.name)
    for text in other_units(_said(episode)):
        yield Finding("warning", "metadata", text, episode.name)


def _numbers_in(value: Any) -> Iterator[float]:
    """Those with a fraction, in whatever lists and maps."""
    if isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers_in(one)
    elif isinstance(value, float):
        yield value
    elif getattr(value, "dtype", np.dtype(object)).kind in "fV":  # also of TensorFlow's own, as bfloat16
        yield from value.astype(np.float64).ravel().tolist()


def check_rate(episode: Recording) -> Iterator[Finding]:
    """Stored times tell the rate that the metadata state, in seconds or parts of them."""
    rates = [(place, v) for place, key, v in _said(episode) if key in RATES and isinstance(v, int | float) and v > 1e-9]
    for name, times in episode.fields.items():
        if name.rpartition("/")[2].lower() not in TIMES or times.size != len(times) or len(times) < 2:
            continue
        if times.dtype.kind == "f" and not np.spacing(np.abs(times.astype(np.float32)).max()) < _FINE:
            continue
        gap = float(np.median(np.diff(times.ravel().astype(np.float64))))
        for place, rate in rates:
            if gap > 0 and all(abs(np.log(rate * gap * u)) > np.log(_OTHER_RATE) for u in _SECONDS):
                text = f"{place} is {rate:g}, and {name} grows by {gap:.3g} a step; correct one of them"
                yield Finding("warning", "time", text, episode.name)


def check_names(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """No two episodes are called alike in one file."""
    seen: dict[tuple[str, str], list[str]] = {}
    for episode in episodes:
        name = str(episode.about.get("episode_id", ""))
        if name.strip():
            seen.setdefault((name, str(episode.about.get("file_path", ""))), []).append(episode.name)
    for (name, _), places in seen.items():
        if len(places) > 1:
            text = f"{len(places)} episodes are called {shown(name)}, the first is {places[0]}; if they are one, drop "
            yield Finding("warning", "duplicate", text + "the others, else give each its name", places[1])


def check_description(version_dir: Path, builder: Any) -> Iterator[Finding]:
    """`dataset_info.json` is that of the shards, and `metadata.json` that of the dataset and its annotator."""
    info = builder.info
    for split in info.splits.values():
        files = [Path(str(file)) for file in split.filepaths]
        stored = sum(file.stat().st_size for file in files) - (framing := 16 * split.num_examples)
        marked = is_marked(version_dir)  # whose checksums tell more
        if split.num_bytes and split.num_bytes not in (stored, stored + framing) and not marked:
            text = f"dataset_info.json: numBytes of {split.name} is {int(split.num_bytes)}, its shards hold {stored}; "
            yield Finding("note", "files", text + "they are not those that it was written with")
        counted = split.statistics.num_examples if hasattr(split, "statistics") else 0
        if counted and counted != split.num_examples:
            text = f"dataset_info.json: by the statistics of {split.name} it has {counted} episodes, by shardLengths "
            yield Finding("warning", "files", f"{text}{split.num_examples}; copy it again")
        for name, part in [found.groups() for file in files if (found := _SHARD.match(file.name))][:1]:
            if (name != info.name and name != "data") or (part != split.name and part in info.splits):
                text = f"{files[0].name} is read as split {split.name} of {info.name}, by dataset_info.json; copy both "
                yield Finding("warning", "files", text + "again")
    yield from _check_account(version_dir, info)


def _check_account(version_dir: Path, info: Any) -> Iterator[Finding]:
    said = dataset_metadata(version_dir)
    parts = (said.get(key) for key in ("identity", "annotator"))
    identity, annotator = (part if isinstance(part, dict) else dict[str, Any]() for part in parts)
    version = identity.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        text = f"metadata.json: schema version {version}, this program knows {SCHEMA_VERSION}; take a newer one"
        yield Finding("error", "files", text)
    if identity and "identity_hash" in said:  # an annotated copy keeps the account of what it was made from
        if said["identity_hash"] != identity_hash(identity):
            text = "metadata.json: identity_hash is not that of identity; copy it again"
            yield Finding("error", "files", text)
        for key, is_ in (("name", info.name), ("version", str(info.version))):
            if identity.get(key, is_) != is_:
                text = f"metadata.json: {key} is {shown(identity[key])}, in dataset_info.json {shown(is_)}; correct one"
                yield Finding("warning", "files", text)
    beside = version_dir / "annotator" / "annotator.json"
    if not annotator or not beside.is_file():
        return
    found: Any = {}
    with contextlib.suppress(ValueError, UserError):
        found = parsed(content(beside))
    for key in sorted(annotator.keys() & found.keys()) if isinstance(found, Mapping) else ():
        if annotator[key] != found[key]:
            text = f"metadata.json: {key} of the annotator is {shown(annotator[key])}, in annotator/annotator.json "
            yield Finding("warning", "files", f"{text}{shown(found[key])}; copy the dataset again")
    try:
        load_annotator(beside.parent)
    except UserError as error:
        yield Finding("warning", "files", one_line(error))


def known_of_metadata(features: Any) -> set[str]:
    """What is compared of the metadata and of their `extra_json`, in small letters; rates only beside times."""
    timed = any(
        name.rpartition("/")[2].lower() in TIMES and dtype.kind in "fiuV" for name, dtype, _ in declared(features)
    )
    return {*_ABOUT, *COUNTS, *UNITS, *_INSTRUCTIONS, *(RATES if timed else ())}


def unread(version_dir: Path, features: Any, taken: Collection[str]) -> set[str]:
    """What no check looks at but for NaN, if these step fields are `taken`; all else is compared by `tells`, or in the
    metadata."""
    beside = {f"steps/{name}" for name in taken} | {"episode_metadata/extra_json"}
    known = known_of_metadata(features)
    for path, dtype, shape in declared(features):
        key = path.rpartition("/")[2].lower()
        if path.startswith("episode_metadata/") and key in known:
            beside.add(path)
        single = dtype.kind in "biufV" and all(size == 1 for size in shape)
        if path.startswith("steps/") and single and tells(path) and key not in (*PER_STEP, *COUNTS):
            beside.add(path)
    return of_fields(features, beside) | of_version(version_dir)


def not_looked_at(names: Collection[str]) -> str:
    """What is `unread`, and whether NaN is looked for in it, as in step fields, the metadata and their `extra_json`."""
    fields = {name for name in names if name.startswith(("steps/", "episode_metadata/")) and name[-6:] != ".json)"}
    aside = fields | {name for name in names if name.endswith(" in extra_json")}
    parts = (aside, "NaN aside"), ({*names} - aside, "NaN included")
    return "; ".join(f"{listed(some)} ({how})" for some, how in parts if some)


def _said(episode: Recording) -> Iterator[tuple[str, str, Any]]:
    """Place, name in small letters, and value of what the metadata say."""
    for key, value in episode.about.items():
        yield f"episode_metadata/{key}", key.rpartition("/")[2].lower(), value
    for key, value in episode.extra.items():
        yield f"{one_line(key, 40)} in extra_json", key.lower(), value


DECLARED_CHECKS: tuple[Callable[[Recording], Iterator[Finding]], ...] = (
    check_instructions,
    check_counters,
    check_counts,
    check_success,
    check_metadata,
    check_rate,
)
