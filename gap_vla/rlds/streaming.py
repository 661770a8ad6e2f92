"""The same windows streamed from the TFRecords with `tf.data`, for datasets that do not fit on a disk a second time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.identity import digest
from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.draws import uniform
from gap_vla.rlds.episode_stream import EpisodeStream
from gap_vla.rlds.store import dataset_hash
from gap_vla.rlds.windows import Batch, Goal, Rho


class StreamingLoader:
    """Batches of windows in the layout of `gap_vla.rlds.WindowLoader`, read episode by episode.

    A window is the same in both, to the bit, with its goal and its augmentation, which depend on (seed, epoch, window)
    alone. What differs is the order with `train=True`: here episodes come in a seeded order and windows go through a
    shuffle buffer, there the shuffling is global; and several processes share the episodes, there the windows. With
    `train=False` the order is the same too. `restore` reads and drops what was delivered before; the other's is
    immediate.

    Args: as `WindowLoader`, except
        version_dir: the RLDS dataset, or several with weights `[(one, 0.7), (other, 0.3)]`, each normalised with its
            own statistics; windows are drawn in these proportions.
        statistics: default: each dataset's `dataset_statistics.json`.
        keys: field names of a dataset of others, as in `gap_vla.rlds.read_rlds`.
        resize: camera to (height, width).
        shuffle_windows: size of the shuffle buffer, in windows.
    """

    def __init__(
        self,
        version_dir: str | Path | Sequence[tuple[str | Path, float]],
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
        process_index: int = 0,
        process_count: int = 1,
        language: bool = True,
        statistics: Mapping[str, Any] | None = None,
        keys: Mapping[str, str] | None = None,
        resize: Mapping[str, tuple[int, int]] | None = None,
        upstream_action_mask: bool = False,
        goal: Goal = "none",
        max_goal_distance: int | None = None,
        augment: Mapping[str, Any] | None = None,
        shuffle_windows: int = 2000,
    ) -> None:
        if unknown := set(augment or ()) - set(image_keys):
            raise ConfigError(f"augment names {', '.join(sorted(unknown))}, which is not among image_keys")
        if not 0 <= process_index < process_count:
            raise ConfigError(f"process_index {process_index} is not in [0, {process_count})")
        parts = [(version_dir, 1.0)] if isinstance(version_dir, str | Path) else list(version_dir)
        self._weights = [weight for _, weight in parts]
        options: dict[str, Any] = {
            "split": split,
            "window_size": window_size,
            "action_horizon": action_horizon,
            "seed": seed,
            "image_keys": tuple(image_keys),
            "proprio": proprio,
            "normalization": normalization,
            "rho": rho,
            "train": train,
            "language": language,
            "keys": dict(keys or {}),
            "resize": dict(resize or {}),
            "upstream_action_mask": upstream_action_mask,
            "goal": goal,
            "max_goal_distance": max_goal_distance,
            "process_index": process_index,
            "process_count": process_count,
        }
        self._streams = [EpisodeStream(path, statistics=statistics, **options) for path, _ in parts]
        changes = {key: Augmentation.of(value) for key, value in (augment or {}).items()}
        self._augment = changes if train else {}
        self._batch_size, self._seed, self._train, self._buffer = batch_size, seed, train, shuffle_windows
        sources = [dataset_hash(stream.version_dir, {}) for stream in self._streams]
        self._identity = digest(
            {**options, "sources": sources, "weights": self._weights, "batch_size": batch_size, "buffer": self._buffer}
        )
        self._dataset = self._pipeline()
        self._iterator = self._dataset.as_numpy_iterator()
        self._delivered = 0

    @property
    def statistics(self) -> Any:
        """The statistics that `action` and `proprio` were normalised with; a list of them for several datasets."""
        return self._streams[0].statistics if len(self._streams) == 1 else [s.statistics for s in self._streams]

    def _pipeline(self) -> Any:
        import tensorflow as tf

        parts = [stream.windows() for stream in self._streams]
        self._require_alike([part.element_spec for part in parts])
        windows = parts[0]
        if len(parts) > 1 and self._train:
            windows = tf.data.Dataset.sample_from_datasets(parts, self._weights, self._seed)
        else:
            for part in parts[1:]:
                windows = windows.concatenate(part)
        if self._train:
            windows = windows.shuffle(self._buffer, self._seed, reshuffle_each_iteration=True)
        batches = windows.batch(self._batch_size, drop_remainder=self._train)
        batches = batches.map(self._augmented, num_parallel_calls=2, deterministic=True).prefetch(2)
        options = tf.data.Options()
        options.deterministic = True
        return batches.with_options(options)

    def _require_alike(self, specs: list[Any]) -> None:
        import tensorflow as tf

        for stream, spec in zip(self._streams, specs):
            try:
                tf.nest.assert_same_structure(spec, specs[0])
            except ValueError:
                where = self._streams[0].version_dir
                raise ConfigError(f"{stream.version_dir} and {where} have different fields; annotate both") from None
            for path, own, first in zip(_paths(spec), tf.nest.flatten(spec), tf.nest.flatten(specs[0])):
                if not own.shape.is_compatible_with(first.shape):
                    raise ConfigError(
                        f"{stream.version_dir}: {path} is {own.shape}, in {self._streams[0].version_dir} it is "
                        f"{first.shape}; stream with `resize`, or pad the smaller one"
                    )

    def _augmented(self, batch: dict[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        address = batch.pop("address")
        observation, task = dict(batch["observation"]), dict(batch["task"])
        for key, augmentation in self._augment.items():

            def change(frames: Any, real: Any, where: Any, augmentation: Augmentation = augmentation) -> Any:
                epoch, episode, step = where.T
                return augmentation(frames, real, uniform(self._seed, "augment", epoch, episode, step, DRAWS))

            frames, real = observation[key], observation["timestep_pad_mask"]
            changed = tf.numpy_function(change, [frames, real, address], tf.uint8)
            observation[key] = tf.ensure_shape(changed, frames.shape)
            if key in task:
                goals, there = task[key][:, None], tf.ones_like(real[:, :1])
                changed = tf.numpy_function(change, [goals, there, address], tf.uint8)
                task[key] = tf.ensure_shape(changed, goals.shape)[:, 0]
        return {**batch, "observation": observation, "task": task}

    def __iter__(self) -> Iterator[Batch]:
        if not self._train:
            self._iterator = self._dataset.as_numpy_iterator()
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._delivered += 1
        return batch

    def state(self) -> dict[str, Any]:
        """The position after the last delivered batch, JSON-able."""
        return {"loader": self._identity, "delivered": self._delivered}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues behind `state` by reading up to it.

        Raises:
            ConfigError: the state is of other data, another seed or batch size, or other settings.
        """
        if state.get("loader") != self._identity:
            raise ConfigError(
                "the data position was saved with other data, seed, batch size or settings; resume with the same ones "
                "or start a new run"
            )
        # A fresh pipeline: a second pass over the old one would shuffle anew.
        self._dataset = self._pipeline()
        self._iterator = self._dataset.skip(state["delivered"]).as_numpy_iterator()
        self._delivered = state["delivered"]


def _paths(tree: Any, prefix: str = "") -> list[str]:
    """Names of the leaves in the order of `tf.nest.flatten`."""
    if not isinstance(tree, dict):
        return [prefix]
    return [name for key in sorted(tree) for name in _paths(tree[key], f"{prefix}/{key}" if prefix else key)]
