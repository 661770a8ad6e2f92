"""Whether a dataset fits a configuration; asked before training."""

from __future__ import annotations

from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.config import SmallConfig
from gap_vla.policies.methods import method_of
from gap_vla.rlds import EpisodeStore
from gap_vla.sim import TASK_NAMES
from gap_vla.training.small.windows import phase_names


def require_fit(config: SmallConfig, store: EpisodeStore) -> tuple[int, int, int]:
    """Checks task, images, phases and change points; returns the images' height, width and channels.

    ρ is checked where it is read, see `labels.rho_of`.

    Raises:
        ConfigError: says what is missing or differs, and what to do.
    """
    recorded = store.metadata.get("identity", {}).get("name")
    if recorded in TASK_NAMES and recorded != config.task:
        raise ConfigError(
            f"{store.directory} holds demonstrations of {recorded}, the task is {config.task}; give that task's "
            f"dataset, or --config.task={recorded}"
        )
    for split in ("train", "val"):
        if split not in store.splits:
            raise ConfigError(f"{store.directory} has no split {split!r}; build it with data.val_fraction above 0")
    fields, method = store.split("train").fields, method_of(config.method)
    if method.needs_change_points and "change_point" not in fields:
        raise ConfigError(
            f"the dataset in {store.directory} has no steps/change_point, which method {config.method} needs; add it "
            "with scripts/annotate.py"
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
    return _image_shape(config, store)


def _image_shape(config: SmallConfig, store: EpisodeStore) -> tuple[int, int, int]:
    fields = store.split("train").fields
    shape: tuple[int, ...] = ()
    for camera in config.demos.cameras:
        if f"image_{camera}" not in fields:
            known = ", ".join(key for key in fields if key.startswith("image_")) or "none"
            raise ConfigError(f"{store.directory} has no camera {camera!r} (demos.cameras); it has {known}")
        shape = fields[f"image_{camera}"].shape[1:]
        if shape[:2] != (config.demos.image_size, config.demos.image_size):
            raise ConfigError(
                f"{store.directory} holds images of {shape[0]} × {shape[1]}, demos.image_size is "
                f"{config.demos.image_size}; rollouts would show others than training: set "
                f"--config.demos.image_size={shape[0]}"
            )
    return int(shape[0]), int(shape[1]), int(shape[2])
