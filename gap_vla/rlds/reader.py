"""Reading an RLDS dataset episode by episode (TensorFlow is imported on first use, and only here and in `store`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import Section, one_line, refusing
from gap_vla.core.identity import flat
from gap_vla.rlds.schema import decode_episode
from gap_vla.rlds.version_files import counted, open_version

_NODE = re.compile(r"\{\{.*?\}\} *")
"""Where in TensorFlow's graph an error came up; nothing that a user knows."""


def dataset_metadata(version_dir: str | Path) -> dict[str, Any]:
    """The dataset's own account: `identity`, `identity_hash`, `annotator`, `schema`, versions; {} for foreign data."""
    path = Path(version_dir) / "metadata.json"
    return dict(Section.read(path, EpisodeError).values) if path.exists() else {}


def read_rlds(
    version_dir: str | Path,
    split: str = "train",
    *,
    workers: int = 2,
    resize: Mapping[str, tuple[int, int]] | None = None,
    keys: Mapping[str, str] | None = None,
) -> Iterator[Episode]:
    """Yields the episodes of a split in file order.

    Args:
        version_dir: the dataset, e.g. `data/threading/1.0.0`.
        split: split name.
        workers: threads that decode.
        resize: camera to (height, width), Lanczos3 with antialiasing, rounded and clipped to uint8 as upstream does.
        keys: for datasets of others: field of the episode (`image_primary`, `proprio`, `action`,
            `language_instruction`) to step field (`observation/image_0`, several numeric ones joined by `+`).

    Raises:
        EpisodeError: not a finished dataset, unknown split, a truncated shard (names the shard and what to do), or
            fewer episodes than dataset_info.json says.
    """
    size = {(keys or {}).get(camera, f"observation/{camera}"): hw for camera, hw in (resize or {}).items()}
    for index, (steps, metadata) in enumerate(read_steps(version_dir, split, workers=workers, resize=size)):
        where = f"{version_dir}, {split}[{index}]"
        with refusing(f"{where}: not the fields of an episode", "name them with keys", EpisodeError):
            episode = decode_episode(pick_fields(steps, keys, where) if keys else steps, metadata)
            episode.validate(where)
        yield episode


def read_steps(
    version_dir: str | Path,
    split: str,
    *,
    workers: int = 2,
    resize: Mapping[str, tuple[int, int]] | None = None,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields (steps as stacked numpy arrays, episode metadata) of any RLDS dataset, whatever its fields."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = open_version(Path(version_dir))
    if split not in builder.info.splits:
        raise EpisodeError(f"{version_dir}: no split {split!r}; it has {', '.join(builder.info.splits)}")
    where = f"{version_dir}, split {split}"
    with refusing(where, "copy the dataset again", EpisodeError, (tf.errors.OpError,)):
        in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        dataset = builder.as_dataset(split=split, read_config=in_order)
        stack = functools.partial(_stack, resize=resize or {})
        dataset = dataset.map(stack, num_parallel_calls=workers, deterministic=True).prefetch(1)
        options = tf.data.Options()
        options.threading.private_threadpool_size = workers
        iterator = iter(dataset.with_options(options).as_numpy_iterator())
    index = 0
    while True:
        try:
            episode = next(iterator)
        except StopIteration:
            return counted(where, index, builder.info.splits[split].num_examples)
        except (tf.errors.OpError, UnicodeDecodeError) as error:  # the latter: of bytes that an OpError quotes
            files = ", ".join(Path(f).name for f in builder.info.splits[split].filenames)
            said = one_line(_NODE.sub("", getattr(error, "message", str(error))), 120)
            raise EpisodeError(
                f"{where}, episode {index}: unreadable ({said}); one of "
                f"{files} is truncated or damaged, or features.json is of another dataset: copy them again or convert "
                "the source again"
            ) from None
        yield episode["steps"], episode.get("episode_metadata", {})
        index += 1


def pick_fields(steps: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """Steps under this library's names, from another dataset's; what `keys` does not name keeps its place."""
    fields = dict(flat(steps, separator="/"))
    observation: dict[str, Any] = {}
    picked: dict[str, Any] = {k: v for k, v in steps.items() if k != "observation"}
    for name, path in keys.items():
        missing = [part for part in path.split("+") if part not in fields]
        if missing:
            raise EpisodeError(f"{where}: no step field {missing[0]!r} (fields: {', '.join(sorted(fields))})")
        parts = [fields[part] for part in path.split("+")]
        value = parts[0] if len(parts) == 1 else np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
        (observation if name == "proprio" or name.startswith("image_") else picked)[name] = value
    observation.setdefault("proprio", fields.get("observation/proprio"))
    return {**picked, "observation": observation}


def _stack(episode: dict[str, Any], resize: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    import tensorflow as tf

    steps = episode["steps"].batch(tf.int64.max).get_single_element()
    for path, size in resize.items():
        *parents, key = path.split("/")
        place = functools.reduce(lambda tree, name: tree[name], parents, steps)
        small = tf.image.resize(place[key], size, method="lanczos3", antialias=True)
        place[key] = tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
    return {**episode, "steps": steps}
