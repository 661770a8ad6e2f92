"""An RLDS dataset's new version with `steps/rho` and `steps/change_point`.

Records are edited as `tf.train.Example`s: images stay the encoded bytes they were, and every other feature of every
episode is the same byte for byte, whatever the dataset's own fields are.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import LABELS, Episode, EpisodeError
from gap_vla.core.foreign import Section, refusing
from gap_vla.core.identity import flat
from gap_vla.core.marks import FOLDER_MARK
from gap_vla.core.outputs import deliver
from gap_vla.core.resources import require_disk
from gap_vla.core.whole import workplace
from gap_vla.demos.content import Unchanged
from gap_vla.demos.fields import as_actions, as_rows, as_truth
from gap_vla.demos.layout import UNIT, StateLayout
from gap_vla.demos.source import READERS, account
from gap_vla.rlds.account import dataset_metadata, is_marked, require_account, require_unchanged
from gap_vla.rlds.annotating.job import (
    AnnotatedFiles,
    AnnotationError,
    AnnotationJob,
    joined,
    require_numbers,
    require_pair,
    require_replaceable,
)
from gap_vla.rlds.checking.record_checks import check_example
from gap_vla.rlds.decoding import require_declared, stored_numbers
from gap_vla.rlds.reader import check_steps, declared_limit, read_steps, require_one_row
from gap_vla.rlds.schema import SCHEMA_VERSION, decode_episode, instruction_of
from gap_vla.rlds.statistics import STATISTICS, dataset_statistics, load_statistics, unlike
from gap_vla.rlds.unread import (
    UNITS,
    declared,
    listed,
    of_fields,
    of_first,
    of_record,
    of_version,
    other_units,
    spoken,
    stored_fields,
)
from gap_vla.rlds.version_files import VERSION, examples, open_version, records

ANEW = {"dataset_info.json", "features.json", "metadata.json", "annotator", FOLDER_MARK}
"""What an annotated copy has of its own, besides its shards."""


def episodes_of(
    source: Path, split: str, job: AnnotationJob, only: int | None = None, *, stored: bool = True
) -> Iterator[tuple[Episode, np.ndarray | None]]:
    """Each episode of a split with its state, action and phases, and what `job.extra` names; or `only` one, with its
    images and `stored` labels. Raises AnnotationError or EpisodeError: no such state, or a damaged field."""
    layout, images, limit = job.columns, only is not None, declared_limit(source, None)
    of_ours = dict(flat(dataset_metadata(source))).get("identity.data.kind") in list(READERS)
    if of_ours and job.state == AnnotationJob.state and layout.columns != StateLayout().columns:
        raise AnnotationError(f"{source}: its columns are those of 'gap', whatever it was made of; leave layout out")
    if layout.takes_all:
        job.require_apart(job.state.split("+"), str(source))
    for index, (steps, metadata) in enumerate(read_steps(source, split, only=only, images=images), only or 0):
        where, fields = f"{source}, {split}[{index}]", dict(flat(steps, separator="/"))
        with refusing(where, "convert the source again", AnnotationError):
            check_steps(fields, where)
            for label in fields.keys() & {*LABELS} if only is None else ():
                require_replaceable(f"steps/{label}", fields[label], where)
            require_pair(fields if only is None else (), where)
            column = functools.partial(_column, fields, where)
            extra = joined(job.extra_names, column, where) if job.extra_names else None
            for name in job.state.split("+"):
                require_one_row(name, fields.get(name, np.empty(0)), where)
            state = as_rows(joined(job.state.split("+"), column, where), f"{where}: {job.state!r}")
            called = [name for name in job.state.split("+") for _ in range(column(name).shape[1])]
            layout.require_positions(called, where)
            proprio = layout.to_proprio(state, where)
            action = fields.get("action", state[:, :0])
            action = action if action.dtype.kind in "fiu" else state[:, :0]
            if limit is not None and "action" in fields:
                as_actions(action, limit, f"{where}: action")
            texts = instruction_of(fields)[:1]
            known = {key: value for key, value in steps.items() if (images and stored) or key not in LABELS}
            known |= {"observation": {"proprio": proprio}, "action": action.reshape(len(proprio), -1)}
            known["language_instruction"] = [*(text for text in texts if isinstance(text, bytes)), b""]
            coloured = {k: v for k, v in fields.items() if images and v.dtype == np.uint8 and v.shape[3:] == (3,)}
            pictures = {key.removeprefix("observation/"): value for key, value in coloured.items()}
            success = True
            with contextlib.suppress(EpisodeError):  # no label depends on it, and the copy keeps what the record says
                success = as_truth(metadata.get("success", True), where)
            episode = decode_episode(known, {**metadata, "success": success})
            texts_of = [
                (f"episode_metadata/{key}", key, one) for key, one in metadata.items() if isinstance(one, bytes)
            ]
            about = [(place, key, one.decode(errors="replace")) for place, key, one in texts_of]
            about += [(f"{key} in extra_json", key, one) for key, one in episode.metadata.items()]
            for text in other_units((place, key.lower(), one) for place, key, one in about if UNIT.search(str(one))):
                raise EpisodeError(f"{where}: {text}")
            facts = {**episode.metadata, "file_path": str(source), "episode_id": f"{split}[{index}]", **layout.facts}
            yield episode.replace(images=pictures, metadata=facts).validate(where), extra


def _column(fields: Mapping[str, np.ndarray], where: str, name: str) -> np.ndarray:
    if name not in fields:
        raise AnnotationError(f"{where}: no 'steps/{name}' (found: steps/{', steps/'.join(sorted(fields))})")
    value = fields[name]
    return value.reshape(len(value), -1) if value.dtype.kind in "fiub" else value


def annotate(source: Path, out: Path, job: AnnotationJob, unchanged: Unchanged) -> AnnotatedFiles:
    """Writes the dataset version `out` (`…/NAME/VERSION`); the annotator goes to `out/annotator/`.

    The annotator is fitted on the split `train` where there is one, so that labels of other splits are predictions.
    """
    if not VERSION.fullmatch(out.name):
        raise AnnotationError(f"{out}: the last part must be a version such as 1.1.0, or TFDS will not find it")
    require_account(source)
    info = dict(Section.read(source / "dataset_info.json", EpisodeError).values)
    described = open_version(source).info
    splits = described.splits
    _require_replaceable(source, described.features["steps"].feature)
    shards = [(name, Path(str(file))) for name, split in splits.items() for file in split.filepaths]
    others = _other_files(source, {file.name for _, file in shards})
    if (statistics := source / STATISTICS).exists():
        load_statistics(statistics, AnnotationError)
    size = sum(file.stat().st_size for file in (*others, *(file for _, file in shards)))
    require_disk({"the copy": size}, out.parent, "free some, or name another disk")
    of_ours = dict(flat(dataset_metadata(source))).get("identity.schema_version") == SCHEMA_VERSION
    beside = {STATISTICS} if statistics.exists() and not of_ours else set[str]()
    told = _tell(source, described, job, beside | of_first(described, next(iter(splits)), UNITS))
    found = read_all(source, job)
    episodes = [episode for *_, episode, _ in found]
    extra = [column for *_, column in found if column is not None]
    fit = [i for i, (split, *_) in enumerate(found) if split == "train"] or None
    if statistics.exists() and of_ours and fit and job.state == AnnotationJob.state:
        meant = dataset_statistics([episodes[i].action for i in fit], [episodes[i].proprio for i in fit])
        for name in unlike(load_statistics(statistics, AnnotationError), meant)[:1]:
            print(f"note: {statistics}: {name} is not that of the training split, nor in the copy", flush=True)
    annotation = job.run(episodes, extra or None, fit)
    with workplace(out) as new:
        new.mkdir()
        for path in others:
            target = new / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        sizes: dict[str, int] = {}
        index, left = 0, set[str]()
        for split, file in shards:
            index, size = _write(file, new / file.name, annotation, index, described.features, left)
            sizes[split] = sizes.get(split, 0) + size
        _write_features(source, new)
        for entry in info["splits"]:
            entry["numBytes"] = str(sizes.get(entry["name"], 0))
        info["version"] = out.name
        (new / "dataset_info.json").write_text(json.dumps(info, indent=2, sort_keys=True))
        _write_metadata(source, new, annotation.identity)
        unchanged()
        annotation.annotator.save(new / "annotator")
        deliver(new, out, "dataset", overwrite=job.overwrite)
    if left - told:
        print(f"note: of some episodes of {source}, not taken: {listed(left - told)}", flush=True)

    copied = [(out, number, job, split) for split, number, *_ in found]
    return AnnotatedFiles(out, out / "annotator", annotation, episodes, lambda index: read(*copied[index], tell=False))


def _require_replaceable(source: Path, step: Any) -> None:
    """Raises AnnotationError: what stands in the place of a label, or of our account, is not ours."""
    for name in LABELS:
        if name in step:
            dtype = np.dtype(step[name].np_dtype)  # one of TensorFlow's own, as bfloat16, is read as float32
            dtype = np.dtype(np.float32) if dtype.kind == "V" else dtype
            require_numbers(f"steps/{name}", (None, *step[name].shape), dtype, source)
    file = source / "metadata.json"
    if file.exists() and (odd := Section.read(file).values.keys() - dataset_metadata(source).keys()):
        raise AnnotationError(f"{file}: {min(odd)!r} is somebody else's, and ours belongs there; rename it first")
    folder, of_ours = source / "annotator", is_marked(source) or "annotator" in dataset_metadata(source)
    if os.path.lexists(folder) and not of_ours and (not folder.is_dir() or any(folder.iterdir())):
        raise AnnotationError(f"{folder} is somebody else's, and ours belongs there; rename it first")


def read_all(source: Path, job: AnnotationJob) -> list[tuple[str, int, Episode, np.ndarray | None]]:
    """Split, number therein, episode without images, and extra columns, of every episode (see `episodes_of`); raises
    EpisodeError, after a damaged one, if a file of a dataset of ours is not as it was written."""
    found = [
        (split, number, *episode)
        for split in open_version(source).info.splits
        for number, episode in enumerate(episodes_of(source, split, job))
    ]
    require_unchanged(source, but=STATISTICS, made_here=False)
    return found


def read(
    source: Path, index: int, job: AnnotationJob, split: str, *, stored: bool = True, tell: bool = True
) -> Episode:
    """Episode `index` of a split with its images and `stored` labels; what is taken is told. Raises AnnotationError or
    EpisodeError: there is none."""
    require_account(source)
    splits = open_version(source).info.splits
    if split in splits and not 0 <= index < splits[split].num_examples:
        count = splits[split].num_examples
        raise AnnotationError(f"{source}, split {split}: no episode {index}; it has {count}, from 0 to {count - 1}")
    info = open_version(source).info
    if tell and split in splits:
        every = itertools.chain.from_iterable(examples(Path(str(file))) for file in info.splits[split].filepaths)
        example = next(itertools.islice(every, index, None))
        _tell(source, info, job, of_record(example, stored_fields(info.features), UNITS), images=True, stored=stored)
        require_declared(example, stored_numbers(info.features), f"{source}, {split}[{index}]")
        for found in check_example(example, info.features, f"{split}[{index}]"):
            print(f"note: {source}, {found.where}: {found.message}", flush=True)
    return next(episodes_of(source, split, job, index, stored=stored))[0]


def _tell(
    source: Path, info: Any, job: AnnotationJob, left: set[str], *, images: bool = False, stored: bool = False
) -> set[str]:
    """Says what is taken of a dataset, and what is neither taken nor compared, of its records that which is `left`;
    gives the latter."""
    fields = {path.removeprefix("steps/"): (dtype, shape[2:]) for path, dtype, shape in declared(info.features)}
    films = [name for name, form in fields.items() if images and form == (np.uint8, (3,))]
    names = [name for name in ("action", "phase", *(LABELS if stored else ()), *films) if name in fields]
    taken = {"proprio": f"{job.state} ({job.columns})"} | {name: name for name in names} | job.extra_said()
    read = {*job.state.split("+"), *job.extra_names, *names, *spoken(info.features), *LABELS}
    about = {f"episode_metadata/{name}" for name in ("success", "extra_json", *UNITS)}
    unread = of_fields(info.features, {f"steps/{name}" for name in read} | about) | of_version(source) | left
    print(account(source, taken, unread), flush=True)
    return unread


def _write(file: Path, out: Path, annotation: Any, index: int, features: Any, left: set[str]) -> tuple[int, int]:
    import tensorflow as tf

    size, written = 0, hashlib.sha256()
    numbers, fields = stored_numbers(features), stored_fields(features)
    with tf.io.TFRecordWriter(str(out)) as writer:
        for place, example in enumerate(examples(file)):
            features = example.features.feature
            for key in ("steps/rho", "steps/change_point"):
                features.pop(key, None)
            require_declared(example, numbers, f"{file}, record {place}")
            left |= of_record(example, fields, UNITS)
            labels = annotation.labels(index)
            features["steps/rho"].float_list.value.extend(labels["rho"].tolist())
            features["steps/change_point"].int64_list.value.extend(labels["change_point"].astype(int).tolist())
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            written.update(record)
            index, size = index + 1, size + len(record)
    found = hashlib.sha256()
    for record in records(out):
        found.update(record)
    if found.digest() != written.digest():
        raise AnnotationError(f"{out.name} was read back and came out different; check the disk and annotate again")
    return index, size


def _write_features(source: Path, out: Path) -> None:
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict.from_config(str(source))
    inner = dict(features["steps"].feature.items())
    inner |= {"rho": tfds.features.Scalar(np.float32), "change_point": tfds.features.Scalar(np.bool_)}
    outer = {key: value for key, value in features.items() if key != "steps"}
    tfds.features.FeaturesDict({**outer, "steps": tfds.features.Dataset(inner)}).save_config(str(out))


def _write_metadata(source: Path, out: Path, identity: dict[str, Any]) -> None:
    metadata = dataset_metadata(source)
    before = {"version": source.absolute().name, "identity_hash": metadata.pop("identity_hash", None)}
    if isinstance(metadata.get("schema"), dict):
        metadata["schema"] = {**metadata["schema"], "rho": True}
    metadata |= {"annotator": identity, "labelled_from": before}
    (out / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def _other_files(source: Path, written: set[str]) -> list[Path]:
    """What the copy takes over as it is: all but what is hidden, and what is `written` anew. Raises AnnotationError: a
    pipe, a device, or a link that leads to a folder or out of the dataset."""
    found = []
    inside = Path(os.path.realpath(source))
    for path in sorted(source.rglob("*")):
        first = path.relative_to(source).parts[0]
        if first.startswith(".") or first in written | ANEW or (path.is_dir() and not path.is_symlink()):
            continue
        if not path.is_file() or not Path(os.path.realpath(path)).is_relative_to(inside):
            raise AnnotationError(
                f"{path} is a pipe, a device or a link that leads elsewhere, and is not copied; remove it, or put a "
                "file in its place"
            )
        found.append(path)
    return found
