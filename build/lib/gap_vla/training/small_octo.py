"""What the experiments with a small Octo from scratch share, whatever the task; it learns on two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gap_vla.training.config import experiment
from gap_vla.training.octo import FinetuneConfig

CAMERAS = ("primary", "wrist")

AUGMENT = dict(crop_scale=(0.8, 1.0), crop_ratio=(1.0, 1.0), brightness=0.08, hue=0.02)
"""Milder colours than upstream's, and crops of both cameras."""

SMALL_OCTO: dict[str, Any] = dict(
    demos=dict(episodes=100, image_size=64, cameras=CAMERAS, action_noise=0.1),
    data=dict(augment=dict(cameras=CAMERAS, primary=AUGMENT, wrist=AUGMENT)),
    model=dict(window_size=1, action_horizon=8, stem_features=(64, 96, 128), stem_patch=4),
    optimizer=dict(learning_rate=5e-4, warmup_steps=100),
    train=dict(steps=2400, batch_size=64),
    eval=dict(episodes=20, execute=2),
)
"""Changes of the library's defaults."""

ONE_CAMERA: dict[str, Any] = dict(
    demos=dict(cameras=("primary",)),
    data=dict(augment=dict(cameras=())),
    model=dict(stem_features=(32, 64, 128, 128), stem_patch=0),
    eval=dict(execute=4),
)
"""Back to one camera, pictures as they are, a stem of four convolutions, and four actions executed of each chunk."""

DEBUG: dict[str, Any] = dict(
    demos=dict(episodes=3),
    model=dict(token_embedding_size=64, num_layers=1, mlp_dim=64, stem_features=(32, 32, 32)),
    train=dict(steps=6, batch_size=8, log_every=2, validate_every=3, save_every=3),
    eval=dict(episodes=1, videos=1),
)
"""The same path in a minute."""

PROFILES: dict[str, dict[str, Any]] = {"default": {}, "debug": DEBUG}


def small_octo(
    task: str,
    profile: str,
    changes: Mapping[str, Any] | None = None,
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """The ConfigDict of a small Octo for a task.

    Args:
        changes: of `SMALL_OCTO`, for this task.
        profiles: by name, applied last; default: `PROFILES`.

    Raises:
        ConfigError: unknown profile or key.
    """
    return experiment(FinetuneConfig, task, [SMALL_OCTO, changes or {}], profiles or PROFILES, profile)
