"""The same windows streamed from the TFRecords with `tf.data`, for datasets that do not fit on a disk a second time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.episode import EpisodeError
from gap_vla.rlds.fields import flatten
from gap_vla.rlds.reader import open_builder
from gap_vla.rlds.statistics import load_statistics
from gap_vla.rlds.windows import Batch, Rho


class StreamingLoader:
    """Batches of windows in the layout of `gap_vla.rlds.WindowLoader`, read episode by episode.

    With `train=False` it gives the loader's windows in the loader's order. With `train=True` episodes come in a seeded
    order and windows go through a shuffle buffer; the order differs from the loader's, whose shuffling is global.
    `restore` reads and drops what was delivered before; the loader's is immediate.

    Args: as `WindowLoader`, except
        version_dir: the RLDS dataset.
        statistics: default: the dataset's `dataset_statistics.json`.
        keys: field names of a dataset of others, as in `gap_vla.rlds.read_rlds`.
        resize: camera to (height, width).
        shuffle_windows: size of the shuffle buffer, in windows.
    """

    def __init__(
        self,
        version_dir: str | Path,
        *,
        split: str,
        window_size: int,
        action_horizon: int,
        batch_size: int,
        seed: int = 0,
        image_keys: Sequence[str] = ("image_primary",),
        proprio: bool = True,
        normalization: str = "normal",
        rho: Rho = "step",
        train: bool = True,
        statistics: Mapping[str, Any] | None = None,
        keys: Mapping[str, str] | None = None,
        resize: Mapping[str, tuple[int, int]] | None = None,
        upstream_action_mask: bool = False,
        shuffle_windows: int = 2000,
    ) -> None:
        self._version_dir = Path(version_dir)
        self._split, self._seed, self._train = split, seed, train
        self._window = window_size, action_horizon, upstream_action_mask
        self._image_keys, self._proprio, self._rho = tuple(image_keys), proprio, rho
        self._normalization, self._batch_size = normalization, batch_size
        self._keys, self._resize = dict(keys or {}), dict(resize or {})
        self._buffer = shuffle_windows
        self.statistics = statistics if statistics is not None else self._own_statistics()
        self._builder = open_builder(self._version_dir)
        if split not in self._builder.info.splits:
            raise EpisodeError(f"{version_dir}: no split {split!r}; it has {', '.join(self._builder.info.splits)}")
        self._dataset = self._pipeline()
        self._iterator = self._dataset.as_numpy_iterator()
        self._delivered = 0

    def _own_statistics(self) -> dict[str, Any]:
        path = self._version_dir / "dataset_statistics.json"
        if not path.exists():
            raise EpisodeError(f"{path}: missing; give `statistics`, for example those of another reader")
        return load_statistics(path)

    def _pipeline(self) -> Any:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        config = tfds.ReadConfig(interleave_cycle_length=1, shuffle_seed=self._seed, try_autocache=False)
        episodes = self._builder.as_dataset(split=self._split, read_config=config, shuffle_files=False)
        if self._train:
            count = self._builder.info.splits[self._split].num_examples
            episodes = episodes.shuffle(min(count, 256), self._seed, reshuffle_each_iteration=True).repeat()
        windows = episodes.map(self._windows, num_parallel_calls=2, deterministic=True)
        windows = windows.flat_map(tf.data.Dataset.from_tensor_slices)
        if self._train:
            windows = windows.shuffle(self._buffer, self._seed, reshuffle_each_iteration=True)
        batches = windows.batch(self._batch_size, drop_remainder=self._train).prefetch(2)
        options = tf.data.Options()
        options.deterministic = True
        return batches.with_options(options)

    def _windows(self, episode: Mapping[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        from gap_vla.rlds.transforms import add_pad_mask_dict, chunk, normalize_trajectory

        fields = flatten(episode["steps"].batch(tf.int64.max).get_single_element())
        if self._rho != "none" and "rho" not in fields:
            raise EpisodeError(f'{self._version_dir}: the dataset has no rho; annotate it, or stream with rho="none"')
        observation = {key: self._picture(fields, key) for key in self._image_keys}
        if self._proprio:
            parts = self._keys.get("proprio", "observation/proprio").split("+")
            observation["proprio"] = tf.concat([tf.cast(fields[p], tf.float32) for p in parts], axis=1)
        action = tf.cast(fields[self._keys.get("action", "action")], tf.float32)
        observation["timestep"] = tf.range(tf.shape(action)[0])
        language = fields[self._keys.get("language_instruction", "language_instruction")]
        trajectory: dict[str, Any] = {"observation": observation, "task": {"language_instruction": language}}
        trajectory["action"] = action
        if self._rho != "none":
            trajectory |= {key: fields[key] for key in ("rho", "change_point") if key in fields}
        trajectory = add_pad_mask_dict(normalize_trajectory(trajectory, self.statistics, self._normalization))
        window_size, action_horizon, upstream = self._window
        trajectory = chunk(trajectory, window_size, action_horizon, upstream_action_mask=upstream)
        trajectory["observation"].pop("task_completed")
        if self._rho == "current":
            trajectory["rho"] = tf.repeat(trajectory["rho"][:, -1:], window_size, axis=1)
        return trajectory

    def _picture(self, fields: Mapping[str, Any], key: str) -> Any:
        import tensorflow as tf

        frames = fields[self._keys.get(key, f"observation/{key}")]
        if key in self._resize:
            small = tf.image.resize(frames, self._resize[key], method="lanczos3", antialias=True)
            frames = tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
        return frames

    def __iter__(self) -> Iterator[Batch]:
        if not self._train:
            self._iterator = self._dataset.as_numpy_iterator()
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._delivered += 1
        return batch

    def state(self) -> dict[str, Any]:
        """The number of batches delivered, JSON-able."""
        return {"delivered": self._delivered, "seed": self._seed, "batch_size": self._batch_size}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues behind `state` by reading up to it.

        Raises:
            ValueError: the state is of another seed or batch size.
        """
        if (state["seed"], state["batch_size"]) != (self._seed, self._batch_size):
            raise ValueError("the data position was saved with another seed or batch size; use the same settings")
        # A fresh pipeline: a second pass over the old one would shuffle anew.
        self._dataset = self._pipeline()
        self._iterator = self._dataset.skip(state["delivered"]).as_numpy_iterator()
        self._delivered = state["delivered"]
