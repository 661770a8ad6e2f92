"""What a configuration reads from an episode store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.windows import Batch
from gap_vla.sim import TASK_NAMES
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.preflight import require_cameras
from gap_vla.training.torch import SmallConfig


def has_rho(store: EpisodeStore) -> bool:
    """Whether every split carries ρ."""
    return all("rho" in split.fields for split in store.splits.values())


def require_rho(config: FinetuneConfig, store: EpisodeStore) -> None:
    """Raises ConfigError if GAP is asked for and the dataset has no ρ."""
    if config.schedule.needs_rho and not has_rho(store):
        raise ConfigError(
            f"the dataset in {store.directory} has no steps/rho, which method {config.method} with mode "
            f"{config.schedule.mode} needs; add it with `gap-vla annotate`, or train with method vp"
        )


def require_fit(config: SmallConfig, store: EpisodeStore) -> tuple[int, int, int]:
    """Checks task, images, phases and change points; returns the images' height, width and channels.

    ρ is checked where it is read, see `gap_vla.policies.windows.rho_of`.

    Raises:
        ConfigError: says what is missing or differs, and what to do.
    """
    from gap_vla.policies.windows import phase_names  # loads torch

    recorded = store.metadata.get("identity", {}).get("name")
    if recorded in TASK_NAMES and recorded != config.task:
        raise ConfigError(
            f"{store.directory} holds demonstrations of {recorded}, the task is {config.task}; give that task's "
            f"dataset, or --config.task={recorded}"
        )
    for split in ("train", "val"):
        if split not in store.splits:
            raise ConfigError(f"{store.directory} has no split {split!r}; build it with data.val_fraction above 0")
    fields, method = store.split("train").fields, config.how
    if method.needs_change_points and "change_point" not in fields:
        raise ConfigError(
            f"the dataset in {store.directory} has no steps/change_point, which method {config.method} needs; add it "
            "with `gap-vla annotate`"
        )
    if method.needs_phase:
        known = len(phase_names(store)) if "phase" in fields else 0
        if not known:
            raise ConfigError(
                f"the dataset in {store.directory} has no steps/phase, which method {config.method} learns from; add "
                "that column, or choose another method"
            )
        if known > config.model.phases:
            raise ConfigError(
                f"the dataset in {store.directory} has {known} phases; set --config.model.phases={known} or more"
            )
    shapes = {key: array.shape[1:] for key, array in fields.items() if key.startswith("image_")}
    require_cameras(store.directory, shapes, config, rolled_out=True)
    height, width, channels = shapes[f"image_{config.demos.cameras[-1]}"]
    return int(height), int(width), int(channels)


def describe_store(store: EpisodeStore) -> str:
    """One line on the data: episodes, steps, change points, ρ."""
    splits = store.splits.values()
    steps = sum(split.steps for split in splits)
    episodes = sum(len(split) for split in splits)
    parts = [f"dataset: {' + '.join(f'{len(split)} {name}' for name, split in store.splits.items())} episodes"]
    parts.append(f"{steps} steps")
    if has_rho(store):
        points = sum(int(split.fields["change_point"].sum()) for split in splits) / episodes
        rho = sum(float(split.fields["rho"].sum()) for split in splits) / steps
        parts.append(f"{points:.1f} change points an episode, mean ρ {rho:.3f}")
    return ", ".join(parts)


def make_loader(
    config: FinetuneConfig, store: EpisodeStore, split: str, train: bool, mixture: Sequence[EpisodeStore] = ()
) -> WindowLoader | ShuffledImages:
    """Windows of one split as this configuration wants them; pictures are changed in training only.

    Args:
        mixture: the stores of `data.mixture`.
    """
    shuffled = config.data.shuffle_images and train
    stores, weights = [store, *mixture], [1.0, *(weight for _, weight in config.data.mixture)]
    loader = WindowLoader(
        list(zip(stores, weights, strict=train)),
        split=split,
        window_size=config.model.window_size,
        action_horizon=config.model.action_horizon,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        image_keys=tuple(f"image_{camera}" for camera in config.demos.cameras),
        proprio=config.uses_proprio,
        normalization=config.data.normalization,
        rho_of_window="step" if all(map(has_rho, stores)) else "none",
        language=bool(config.model.pretrained),
        train=train,
        augment=config.data.augment.of_images if train and not shuffled else None,
    )
    if shuffled:
        return ShuffledImages(loader, store, split, config.train.seed, config.data.augment.of_images)
    return loader


class ShuffledImages:
    """A control that cannot see: batches with the pictures of other episodes, each drawn at random for a window.

    They are those of the same steps. Proprioception, actions and ρ stay; pictures still tell how far an episode has
    got, but nothing of this one's layout. An episode that is shorter shows its last picture. Once in as many windows as
    there are episodes, a window keeps its own. Same seed, same batches, also after resuming.

    Args:
        loader: of windows of `split` of `store`.
        seed: of the drawing.
        augment: `image_<camera>` to the random changes of the pictures that are shown instead.
    """

    def __init__(
        self,
        loader: WindowLoader,
        store: EpisodeStore,
        split: str,
        seed: int,
        augment: Mapping[str, Augmentation] | None = None,
    ) -> None:
        self._augment = augment or {}
        self._loader, self._data, self._seed = loader, store.split(split), seed
        self._delivered = 0

    def __iter__(self) -> Iterator[Batch]:
        iter(self._loader)
        return self

    def __next__(self) -> Batch:
        batch = self._shuffled(next(self._loader))
        self._delivered += 1
        return batch

    def peek(self) -> Batch:
        """The next batch, without moving on."""
        return self._shuffled(self._loader.peek())

    def state(self) -> dict[str, Any]:
        """The position after the last delivered batch, JSON-able."""
        return {**self._loader.state(), "shuffled_images": self._delivered}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly behind `state`.

        Raises:
            ConfigError: the state is of other data, or of a run whose pictures were not shuffled.
        """
        if "shuffled_images" not in state:
            raise ConfigError("the run was trained without data.shuffle_images; resume with the same settings")
        self._loader.restore({key: value for key, value in state.items() if key != "shuffled_images"})
        self._delivered = state["shuffled_images"]

    def _shuffled(self, batch: Batch) -> Batch:
        timestep = batch["observation"]["timestep"]
        offsets = self._data.offsets
        rng = np.random.default_rng([self._seed, self._delivered])
        drawn = rng.integers(len(offsets) - 1, size=len(timestep))
        step = np.minimum(offsets[drawn][:, None] + timestep, offsets[drawn + 1][:, None] - 1)
        cameras = [key for key in batch["observation"] if key.startswith("image_")]
        pictures = {key: np.take(self._data.fields[key], step, axis=0) for key in cameras}
        if self._augment:
            draws = rng.random((len(timestep), DRAWS))
            for key, augmentation in self._augment.items():
                pictures[key] = augmentation(pictures[key], batch["observation"]["timestep_pad_mask"], draws)
        return {**batch, "observation": {**batch["observation"], **pictures}}
