"""What a configuration reads from an episode store."""

from __future__ import annotations

from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.training.config import FinetuneConfig
from gap_vla.training.shuffled_images import ShuffledImages


def has_rho(store: EpisodeStore) -> bool:
    """Whether every split carries ρ."""
    return all("rho" in split.fields for split in store.splits.values())


def require_rho(config: FinetuneConfig, store: EpisodeStore) -> None:
    """Raises ConfigError if GAP is asked for and the dataset has no ρ."""
    if config.schedule.needs_rho and not has_rho(store):
        raise ConfigError(
            f"the dataset in {store.directory} has no steps/rho, which method {config.method} with mode "
            f"{config.schedule.mode} needs; add it with scripts/annotate.py, or train with method vp"
        )


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


def make_loader(config: FinetuneConfig, store: EpisodeStore, split: str, train: bool) -> WindowLoader | ShuffledImages:
    """Windows of one split as this configuration wants them; pictures are changed in training only."""
    shuffled = config.data.shuffle_images and train
    loader = WindowLoader(
        store,
        split=split,
        window_size=config.model.window_size,
        action_horizon=config.model.action_horizon,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        image_keys=tuple(f"image_{camera}" for camera in config.demos.cameras),
        proprio=config.uses_proprio,
        normalization=config.data.normalization,
        rho_of_window="step" if has_rho(store) else "none",
        language=bool(config.model.pretrained),
        train=train,
        augment=config.data.augment.of_images if train and not shuffled else None,
    )
    if shuffled:
        return ShuffledImages(loader, store, split, config.train.seed, config.data.augment.of_images)
    return loader
