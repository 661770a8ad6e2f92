"""One RLDS dataset as an endless or single `tf.data` stream of windows, each with its address."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds.fields import flatten
from gap_vla.rlds.reader import open_builder
from gap_vla.rlds.statistics import NORMALIZATIONS, load_statistics
from gap_vla.rlds.windows import Goal, Rho

_EPISODES_SHUFFLED = 256


class EpisodeStream:
    """Windows of one split, episode by episode. Args: as `gap_vla.rlds.StreamingLoader`."""

    def __init__(
        self,
        version_dir: str | Path,
        *,
        split: str,
        window_size: int,
        action_horizon: int,
        seed: int,
        image_keys: Sequence[str],
        proprio: bool,
        normalization: str,
        rho: Rho,
        train: bool,
        language: bool,
        statistics: Mapping[str, Any] | None,
        keys: Mapping[str, str],
        resize: Mapping[str, tuple[int, int]],
        upstream_action_mask: bool,
        goal: Goal,
        max_goal_distance: int | None,
        process_index: int,
        process_count: int,
    ) -> None:
        if normalization not in NORMALIZATIONS:
            raise ConfigError(f"unknown normalization {normalization!r}; known: {', '.join(NORMALIZATIONS)}")
        self.version_dir = Path(version_dir)
        self._split, self._seed, self._train = split, seed, train
        self._chunk = {"window_size": window_size, "action_horizon": action_horizon}
        self._upstream_mask = upstream_action_mask
        self._image_keys, self._proprio, self._rho, self._language = tuple(image_keys), proprio, rho, language
        self._normalization, self._goal, self._goal_distance = normalization, goal, max_goal_distance
        self._keys, self._resize = keys, resize
        self._process = process_index, process_count
        self.statistics = statistics if statistics is not None else self._own_statistics()
        self._builder = open_builder(self.version_dir)
        if split not in self._builder.info.splits:
            raise EpisodeError(f"{version_dir}: no split {split!r}; it has {', '.join(self._builder.info.splits)}")
        self._require_fields()

    def _require_fields(self) -> None:
        """Named here and not inside of `tf.data`, where an error would drown in TensorFlow's own."""
        fields = flatten(self._builder.info.features["steps"].feature)
        if self._rho != "none" and "rho" not in fields:
            raise EpisodeError(f'{self.version_dir}: the dataset has no rho; annotate it, or stream with rho="none"')
        wanted = [self._keys.get(key, f"observation/{key}") for key in self._image_keys]
        wanted += self._keys.get("proprio", "observation/proprio").split("+") if self._proprio else []
        wanted += [self._keys.get(key, key) for key in ("action", *["language_instruction"] * self._language)]
        for path in wanted:
            if path not in fields:
                raise EpisodeError(f"{self.version_dir}: no step field {path!r} (fields: {', '.join(sorted(fields))})")

    def _own_statistics(self) -> dict[str, Any]:
        path = self.version_dir / "dataset_statistics.json"
        if not path.exists():
            raise EpisodeError(f"{path}: missing; give `statistics`, for example those of another reader")
        return load_statistics(path)

    def windows(self) -> Any:
        """`tf.data.Dataset` of single windows: the batch's fields, and `address` int64[3] (epoch, episode, step)."""
        import tensorflow as tf
        import tensorflow_datasets as tfds

        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        episodes = self._builder.as_dataset(split=self._split, read_config=config, shuffle_files=False).enumerate()
        index, count = self._process
        episodes = episodes.shard(count, index)
        total = self._builder.info.splits[self._split].num_examples
        if total < count:
            raise ConfigError(f"split {self._split!r} has {total} episodes for {count} processes")

        def epoch(number: Any) -> Any:
            ordered = episodes.shuffle(min(total, _EPISODES_SHUFFLED), self._seed + number) if self._train else episodes
            return ordered.map(
                functools.partial(self._windows, number), num_parallel_calls=2, deterministic=True
            ).flat_map(tf.data.Dataset.from_tensor_slices)

        return tf.data.Dataset.range(2**40).flat_map(epoch) if self._train else epoch(tf.constant(0, tf.int64))

    def _windows(self, epoch: Any, number: Any, episode: Mapping[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        from gap_vla.rlds.transforms import add_pad_mask_dict, chunk, normalize_trajectory, relabel_goals

        trajectory = self._trajectory(flatten(episode["steps"].batch(tf.int64.max).get_single_element()))
        trajectory = add_pad_mask_dict(normalize_trajectory(trajectory, self.statistics, self._normalization))
        steps = tf.shape(trajectory["action"])[0]
        address = [tf.fill([steps], tf.cast(part, tf.int64)) for part in (epoch, number)]
        address.append(tf.range(tf.cast(steps, tf.int64)))
        if self._goal == "uniform":
            goal = tf.numpy_function(self._goals, [*address, steps], tf.int64)
            goal = tf.cast(tf.ensure_shape(goal, [None]), tf.int32)
            trajectory = relabel_goals(trajectory, goal=goal)
        trajectory = chunk(trajectory, **self._chunk, upstream_action_mask=self._upstream_mask)
        trajectory["observation"].pop("task_completed")
        if self._rho == "current":
            trajectory["rho"] = tf.repeat(trajectory["rho"][:, -1:], self._chunk["window_size"], axis=1)
        return {**trajectory, "address": tf.stack(address, axis=1)}

    def _goals(self, epoch: Any, episode: Any, step: Any, steps: Any) -> Any:
        from gap_vla.rlds.draws import goal_steps

        return goal_steps(self._seed, epoch, episode, step, step * 0 + steps, self._goal_distance)

    def _trajectory(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        observation = {key: self._picture(fields, key) for key in self._image_keys}
        if self._proprio:
            parts = [fields[part] for part in self._keys.get("proprio", "observation/proprio").split("+")]
            observation["proprio"] = tf.concat([tf.cast(part, tf.float32) for part in parts], axis=1)
        action = tf.cast(fields[self._keys.get("action", "action")], tf.float32)
        observation["timestep"] = tf.range(tf.shape(action)[0])
        trajectory: dict[str, Any] = {"observation": observation, "task": {}, "action": action}
        if self._language:
            key = self._keys.get("language_instruction", "language_instruction")
            trajectory["task"]["language_instruction"] = fields[key]
        if self._rho != "none":
            trajectory |= {key: fields[key] for key in ("rho", "change_point") if key in fields}
        return trajectory

    def _picture(self, fields: Mapping[str, Any], key: str) -> Any:
        import tensorflow as tf

        frames = fields[self._keys.get(key, f"observation/{key}")]
        if key in self._resize:
            small = tf.image.resize(frames, self._resize[key], method="lanczos3", antialias=True)
            frames = tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
        return frames
