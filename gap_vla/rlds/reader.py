"""Reading an RLDS dataset episode by episode (TensorFlow is imported on first use, and only here and in `store`)."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import one_line, refusing, shown, whole
from gap_vla.core.identity import flat
from gap_vla.demos.beside import ENDS, misplaced, require_ended, require_rising
from gap_vla.demos.fields import ACTION_LIMIT, as_actions, as_truth, checked_limit
from gap_vla.demos.source import READERS, reader_class
from gap_vla.rlds.account import dataset_metadata, is_marked, require_account
from gap_vla.rlds.decoding import (
    MOST_PIXELS,
    as_floats,
    bounded,
    each_picture,
    require_declared,
    stacked,
    stored_numbers,
)
from gap_vla.rlds.schema import LANGUAGE, decode_episode, instruction_of, is_row, with_cameras
from gap_vla.rlds.unread import (
    changing,
    declared,
    is_time,
    listed,
    of_fields,
    of_first,
    of_record,
    of_version,
    stored_fields,
)
from gap_vla.rlds.version_files import examples, open_version, require_split_unchanged, without_clock

_NODE = re.compile(r"\{\{.*?\}\} *|Error in user-defined function .*? with iterator: \S+ |\[\[.*|\[Op:.*", re.DOTALL)
"""Where in TensorFlow's graph an error came up; nothing that a user knows."""

_NAMES = ("proprio", "action", "language_instruction", "rho", "change_point", "phase")
"""Of `keys`, beside the cameras'."""

_ABOUT = {f"episode_metadata/{name}" for name in ("success", "episode_id", "file_path", "extra_json")}


def read_rlds(
    version_dir: str | Path,
    split: str = "train",
    *,
    workers: int = 2,
    resize: Mapping[str, tuple[int, int]] | None = None,
    keys: Mapping[str, str] | None = None,
    compared: bool = False,
) -> Iterator[Episode]:
    """Yields the episodes of a split in file order.

    Args:
        version_dir: the dataset, e.g. `data/threading/1.0.0`.
        split: split name.
        workers: threads that decode.
        resize: camera to (height, width), Lanczos3 with antialiasing, rounded and clipped to uint8 as upstream does.
        keys: for datasets of others: field of the episode (`image_primary`, `proprio`, `action`,
            `language_instruction`) to step field (`observation/image_0`, several numeric ones joined by `+`). Cameras
            that it does not name are left out.
        compared: the files were compared with what was written (`require_unchanged`), and are not once more.

    Raises:
        EpisodeError: not a finished dataset, unknown split, a file of ours that was changed since it was written (all
            of the split is compared with its checksums before the first episode, about 1 GB/s), or a
            damaged shard (names the shard and what to do).
    """
    require_keys(keys)
    require_account(Path(version_dir))
    resize = sizes_of(resize)
    whole("workers", workers, 1, 1024, EpisodeError)
    if not compared:
        require_split_unchanged(Path(version_dir), split)
    told = tell_unread(Path(version_dir), split, keys or {})
    limit = declared_limit(Path(version_dir), None)
    if keys and (idle := sorted({*(resize or ())} - {*keys})):
        raise EpisodeError(f"{version_dir}: resize names {idle[0]!r}, and keys do not; name it there, or leave it out")
    size = {(keys or {}).get(camera, f"observation/{camera}"): hw for camera, hw in (resize or {}).items()}
    whole_ones = _whole_examples(Path(version_dir), split, left := {*told})
    found = zip(read_steps(version_dir, split, workers=workers, resize=size), whole_ones)
    advice = "name them with keys, or convert the source again"
    for index, ((steps, metadata), _) in enumerate(found):
        where = f"{version_dir}, {split}[{index}]"
        with refusing(f"{where}: not the fields of an episode", advice, EpisodeError):
            fields = dict(flat(steps, separator="/"))
            if len(spoken := instruction_of(fields)):
                steps["language_instruction"] = spoken
            picked = pick_fields(steps, keys, where) if keys else with_cameras(steps)
            texts = np.asarray(picked.get("language_instruction", ()))
            if len(changed := np.flatnonzero(texts[1:] != texts[:-1])):
                step = changed[0] + 1
                raise EpisodeError(f"{where}: the instruction changes at step {step}; make an episode of each task")
            success = as_truth(metadata.get("success", True), f"{where}: episode_metadata/success")
            episode = decode_episode(picked, {**metadata, "success": success})
            episode.validate(where)
            check_steps(fields, where)
            as_actions(episode.action, limit, f"{where}: action")
        yield episode
    if left - told:
        print(f"note: of some episodes of {version_dir}, {split}, not read: {listed(left - told)}", flush=True)


def require_keys(keys: Mapping[str, str] | None) -> None:
    """Raises EpisodeError: something else than a map of texts."""
    if keys is not None and not (isinstance(keys, Mapping) and all(isinstance(one, str) for one in keys.values())):
        what = "a map from names to fields, as proprio to observation/state (several joined by +)"
        raise EpisodeError(f"keys are {one_line(repr(keys), 80)}; give {what}")


def sizes_of(resize: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, int]]:
    """Height and width of cameras. Raises EpisodeError: something else than a map of cameras to two sides."""
    if not isinstance(resize, Mapping | None):
        raise EpisodeError(f"resize is {shown(resize)}; give a map, as image_primary to (height, width)")
    for camera, sides in (resize or {}).items():
        shape: tuple[int, ...] = ()
        with contextlib.suppress(ValueError):  # of what is ragged
            shape = np.shape(sides)
        if shape != (2,):
            raise EpisodeError(f"resize of {camera} is {shown(sides)}; give (height, width)")
    most = math.isqrt(MOST_PIXELS)
    return {
        camera: (
            whole(f"height of {camera}", height, 1, most, EpisodeError),
            whole(f"width of {camera}", width, 1, most, EpisodeError),
        )
        for camera, (height, width) in (resize or {}).items()
    }


def tell_unread(version_dir: Path, split: str, keys: Mapping[str, str]) -> set[str]:
    """Says which fields `read_rlds` takes, where a dataset has something that it neither takes nor compares, and gives
    the names of that; of its records the first one is looked at."""
    info = open_version(version_dir).info
    usual = {name: name for name in (*_NAMES[1:], *LANGUAGE)} | {"proprio": "observation/proprio"}
    read = {f"steps/{part}" for path in {**usual, **keys}.values() for part in path.split("+")} | _ABOUT
    every = sorted((path, is_row(dtype, shape)) for path, dtype, shape in declared(info.features))
    films = () if keys else [path for path, row in every if path.startswith("steps/observation/image_") and not row]
    taken = [path for path, _ in every if path in read or path in films]
    known = None if is_marked(version_dir) else ()  # a conversion by us said what it keeps in `extra_json`
    if left := of_fields(info.features, taken) | of_version(version_dir) | of_first(info, split, known):
        said = f"these are read: {one_line(', '.join(taken))}; not read: {listed(left)}"
        print(f"note: of {version_dir}, {split}, {said}", flush=True)
    return left


def _whole_examples(version_dir: Path, split: str, left: set[str]) -> Iterator[Any]:
    """The records of a split as often as it is read, looked at by `examples` where no checksums of ours tell; what is
    not read of them is added to what is `left`."""
    if is_marked(version_dir):
        yield from itertools.repeat(None)
    info = open_version(version_dir, shards=False).info
    numbers, fields = stored_numbers(info.features), stored_fields(info.features)
    files = (examples(Path(str(file))) for file in info.splits[split].filepaths)
    for index, example in enumerate(itertools.chain.from_iterable(files)):
        require_declared(example, numbers, f"{version_dir}, {split}[{index}]")
        left |= of_record(example, fields)
        yield example


def declared_limit(version_dir: Path, of_others: float | None = ACTION_LIMIT) -> float | None:
    """The largest action that a dataset may hold: what its reader was told, else what its reader takes for granted."""
    said = dict(flat(dataset_metadata(version_dir)))
    for options in ("options", "reader_options"):  # of build-dataset, and of a run
        if f"identity.data.{options}.action_limit" in said:
            return checked_limit(said[f"identity.data.{options}.action_limit"])
    kind = said.get("identity.data.kind", said.get("identity.data.demos.kind"))
    if kind not in list(READERS) and "identity.data.demos.content" in said:
        return None  # a run does not name the readers that find a file themselves, and they held what they allow
    # collected in our simulators, whose actions are those of an Episode
    collected = "identity.data.demos.task" in said and "identity.data.demos.path" not in said
    return reader_class(kind).ACTION_LIMIT if kind in list(READERS) else ACTION_LIMIT if collected else of_others


def read_steps(
    version_dir: str | Path,
    split: str,
    *,
    workers: int = 2,
    resize: Mapping[str, tuple[int, int]] | None = None,
    only: int | None = None,
    images: bool = True,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields (steps as stacked numpy arrays, episode metadata) of any RLDS dataset, whatever its fields.

    Of `only` this episode, if one is named; images stay encoded if they are not wanted. From an episode on in which the
    length of a field changes from step to step, such fields are left out.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = open_version(Path(version_dir))
    if split not in builder.info.splits:
        raise EpisodeError(f"{version_dir}: no split {split!r}; it has {', '.join(builder.info.splits)}")
    where = f"{version_dir}, split {split}"
    if not builder.info.splits[split].num_examples:
        raise EpisodeError(f"{where}: it holds no episodes; convert the dataset again, with some for it")
    step = flat(builder.info.features["steps"].feature, separator="/") if resize else ()
    films = ((key, one) for key, one in step if len(getattr(one, "shape", None) or ()) == 3)
    pictures = {key for key, one in films if one.np_dtype == np.uint8}  # others would be cut off at 0 and 255
    for path in resize or ():
        if path not in pictures:
            found = ", ".join(sorted(pictures)) or "none"
            raise EpisodeError(f"{where}: no pictures {path!r} of bytes to resize; there are {found}")
    with refusing(where, "copy the dataset again", EpisodeError, (tf.errors.OpError,)):
        in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        decode = bounded() if images else tfds.decode.SkipDecoding()
        decoders = {"steps": each_picture(builder.info.features["steps"].feature, decode)}
        # neither our functions nor TFDS' need AutoGraph, which writes each into a file and warns where it cannot
        as_it_is = tf.autograph.experimental.do_not_convert
        options = without_clock()
        options.threading.private_threadpool_size = workers
        options.experimental_optimization.apply_default_optimizations = False

        def episodes(first: int, uneven: bool) -> Iterator[Any]:
            part = f"{split}[{first}:]" if only is None else f"{split}[{only}:{only + 1}]"
            dataset = as_it_is(builder.as_dataset)(split=part, decoders=decoders, read_config=in_order)
            stack = as_it_is(functools.partial(stacked, resize=resize or {}, uneven=uneven))
            dataset = dataset.map(stack, num_parallel_calls=workers, deterministic=True).prefetch(1)
            return iter(dataset.with_options(options).as_numpy_iterator())

        iterator, uneven = episodes(0, False), False
    index = only or 0
    while True:
        try:
            episode = next(iterator)
        except StopIteration:
            return
        except (tf.errors.OpError, UnicodeDecodeError) as error:  # the latter: of bytes that an OpError quotes
            if "Cannot batch tensors with different shapes" in str(error) and not uneven:
                iterator, uneven = episodes(index, True), True
                continue
            files = ", ".join(Path(f).name for f in builder.info.splits[split].filenames)
            said = one_line(_NODE.sub("", getattr(error, "message", str(error))), 120)
            if "Dataset was empty" in said:
                raise EpisodeError(f"{where}, episode {index}: no steps; drop the episode") from None
            if "must have the same size" in said:
                said = _uneven(builder.info, split, index)
            if "Cannot batch" in said:  # what else changes from step to step was left out
                raise EpisodeError(
                    f"{where}, episode {index}: pictures, or another field of bytes, are not of one size at all steps; "
                    "store them in one size, or leave them out"
                ) from None
            raise EpisodeError(
                f"{where}, episode {index}: unreadable ({said}); one of "
                f"{files} is truncated or damaged, or features.json is of another dataset: copy them again or convert "
                "the source again"
            ) from None
        about = episode.get("episode_metadata")  # one text or number is named as not read
        yield as_floats(episode["steps"]), about if isinstance(about, dict) else {}
        index += 1


def _uneven(info: Any, split: str, index: int) -> str:
    """Which fields of an episode have not as many steps as most."""
    files = (examples(Path(str(file))) for file in info.splits[split].filepaths)
    example = next(itertools.islice(itertools.chain.from_iterable(files), index, None))
    stored, steps = example.features.feature, {}
    for key, account in flat(info.features.get_serialized_info(), separator="/"):
        if key.startswith("steps/") and account.shape.count(None) == 1:
            values = getattr(stored[key], stored[key].WhichOneof("kind") or "int64_list").value
            steps[key] = len(values) // math.prod(size or 1 for size in account.shape)
    usual = statistics.mode(steps.values())
    return ", ".join(f"{key} has {n} steps, most have {usual}" for key, n in steps.items() if n != usual)


def check_steps(fields: Mapping[str, np.ndarray], where: str) -> None:
    """Raises EpisodeError for fields [T, …] that mean the same in every RLDS dataset, and here cannot be right."""
    for text in (*misplaced(fields), *changing(fields)):
        raise EpisodeError(f"{where}: {text}; convert it again")
    for name, value in fields.items():
        kind = name.rpartition("/")[2]
        if kind in ENDS and value.dtype.kind in "biuf":
            require_ended(f"{where}: {name}", value, lasting=False)
        if is_time(name):
            require_rising(value, f"{where}: {name}", equal=True)  # seconds since 1970 have no fractions in float32
        if name.split("/")[0] in ("action", "reward", "discount") and value.dtype.kind == "f":
            if (odd := np.argwhere(~np.isfinite(value))).size:
                raise EpisodeError(
                    f"{where}: {name} is NaN or infinite at step {odd[0, 0]}; repair or drop the episode"
                )


def pick_fields(steps: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """Steps under this library's names, from another dataset's; what `keys` does not name keeps its place, but for
    cameras, which are left out."""
    fields = dict(flat(steps, separator="/"))
    if odd := [name for name in keys if name not in _NAMES and (not name.startswith("image_") or "/" in name)]:
        raise EpisodeError(f"{where}: keys name {odd[0]!r}, no field of an episode; give image_…, {', '.join(_NAMES)}")
    paths = [path for name, path in keys.items() if name.startswith("image_")]
    if len({*paths}) < len(paths):
        raise EpisodeError(f"{where}: keys take two cameras from {max(paths, key=paths.count)}; give each its own")
    observation: dict[str, Any] = {}
    picked: dict[str, Any] = {k: v for k, v in steps.items() if k != "observation"}
    for name, path in keys.items():
        names = column_names(f"{where}: {name} in keys", path)
        missing = [part for part in names if part not in fields]
        if missing:
            raise EpisodeError(f"{where}: no step field {missing[0]!r} (fields: {', '.join(sorted(fields))})")
        parts = [fields[part] for part in names]
        if not all(map(len, parts)):
            raise EpisodeError(f"{where}: no steps; drop the episode")
        for part in names if (row := name in ("proprio", "action")) else ():
            require_one_row(part, fields[part], where)
        value = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1) if row or parts[1:] else parts[0]
        if name in ("phase", "language_instruction") and value.ndim > 1:
            raise EpisodeError(
                f"{where}: {name} in keys is {path}, {list(value.shape)}; name a field of one text a step"
            )
        (observation if name == "proprio" or name.startswith("image_") else picked)[name] = value
    observation.setdefault("proprio", fields.get("observation/proprio"))
    return {**picked, "observation": observation}


def column_names(what: str, names: str, error: type[UserError] = EpisodeError) -> list[str]:
    """The names that are joined by `+`; raises `error` if one is empty or there twice."""
    found = names.split("+")
    if len({*found}) < len(found) or "" in found:
        raise error(f"{what} is {one_line(names)!r}; name each column once, joined by +")
    return found


def require_one_row(name: str, value: np.ndarray, where: str) -> None:
    """Raises EpisodeError: a state of several rows a step, a history of one arm or several: which, nothing says."""
    if sum(n > 1 for n in value.shape[1:]) > 1:
        raise EpisodeError(f"{where}: 'steps/{name}' is {list(value.shape)}, several rows a step; name one of one row")
