"""The backend that fine-tunes Octo, in JAX: its configuration. `gap_vla.training.octo_trainer` is what trains.

Importing it loads no JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.config import STRICT, Episodes, Horizon, LayoutSeed, Workers, choose
from gap_vla.core.errors import ConfigError
from gap_vla.sim.variants import VARIANT_NAMES
from gap_vla.training.config import (
    EvalConfig,
    Experiment,
    Layouts,
    OptimizerConfig,
    TrainConfig,
    experiment,
    profile_of,
)


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Octo: pretrained weights, or a small one from scratch."""

    pretrained: str = ""
    """Checkpoint folder or hf://OWNER/NAME that training starts from; empty: the small model below, from scratch."""
    window_size: Annotated[int, Field(ge=1, le=128)] = 1
    """Steps of history that the policy sees."""
    proprio_history: Annotated[int, Field(ge=1, le=64)] = 1
    """States that each step of the window shows as tokens, its own included; an extension, upstream shows one."""
    proprio_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    """Tokens that an MLP makes of the whole state, an extension; 0: each number is a token, as upstream."""
    action_horizon: Horizon = 8
    """Actions that are predicted at a time."""
    head: Literal["l1", "mse", "diffusion"] = "l1"
    """Action head."""
    token_embedding_size: Annotated[int, Field(ge=8, multiple_of=8)] = 128
    """Width of a token; a multiple of model.num_heads."""
    num_layers: Annotated[int, Field(ge=1)] = 4
    """Transformer layers."""
    num_heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads."""
    mlp_dim: Annotated[int, Field(ge=1)] = 256
    """Width of the MLP in each layer."""
    stem_features: Annotated[
        tuple[Annotated[int, Field(ge=32, multiple_of=32)], ...], Field(min_length=1, max_length=6)
    ] = (32, 64, 128)
    """Channels of the image stem's stages; each halves the picture."""
    stem_patch: Annotated[int, Field(ge=0, le=16)] = 0
    """Pixels of the patches that the first stage maps; 0: the first stage is a 3×3 convolution of stride 2."""

    def __post_init__(self) -> None:
        if self.token_embedding_size % self.num_heads:
            raise ConfigError(
                f"model.token_embedding_size is {self.token_embedding_size}; it must be a multiple of model.num_heads, "
                f"{self.num_heads}"
            )

    @property
    def pixels_of_token(self) -> int:
        """Along each side of a picture: the first stage of the stem maps patches, each further one halves."""
        return 16 if self.pretrained else (self.stem_patch or 2) * 2 ** (len(self.stem_features) - 1)


@dataclass(frozen=True, config=STRICT)
class OctoOptimizerConfig(OptimizerConfig):
    """AdamW as upstream's, with a linear warm-up and a cosine decay to zero."""

    frozen_keys: tuple[str, ...] = ()
    """Patterns of parameters that are not trained, as *hf_model*."""
    moment_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of AdamW's stored first moment."""


@dataclass(frozen=True, config=STRICT)
class OctoTrainConfig(TrainConfig):
    """The training, and how it is spread over memory and devices."""

    fsdp: Annotated[int, Field(ge=1, le=4096)] = 1
    """Devices that share one copy of parameters and optimizer; the others repeat it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic, not of the parameters; bfloat16 is faster on accelerators only."""


@dataclass(frozen=True, config=STRICT)
class OctoEvalConfig(EvalConfig):
    """Rollouts on one variant of the task."""

    seed: LayoutSeed = 100_000
    """Seed of the first layout; demonstrations draw theirs by demos.seed."""
    workers: Workers = 2
    """Processes that collect demonstrations, and that roll out."""
    execute: Horizon = 4
    """Actions that are executed of each predicted chunk."""
    videos: Episodes = 4
    """Rollouts that are filmed."""
    variant: str = "default"
    """Variant of the task: the default, or one that lies out of the distribution."""

    def __post_init__(self) -> None:
        choose(self.variant, tuple(VARIANT_NAMES), "eval.variant")

    def layouts(self) -> list[Layouts]:
        return [Layouts(self.variant, self.seed, "")]


@dataclass(frozen=True, config=STRICT)
class FinetuneConfig(Experiment):
    """Octo, fine-tuned or from scratch."""

    backend: ClassVar[str] = "octo"
    trained_by: ClassVar[str] = "gap_vla.training.octo_trainer:OctoTrainer"
    methods: ClassVar[tuple[str, ...]] = ("v", "vp", "vp_slow", "vp_gap")
    unrecorded: ClassVar[tuple[str, ...]] = (*Experiment.unrecorded, "model.proprio_history", "model.proprio_tokens")
    gone: ClassVar[Mapping[str, Any]] = {**Experiment.gone, "rival": {}, "train.accumulate": 1, "train.remat": False}

    method: str = "vp_slow"
    """v sees pictures alone, vp the state too; vp_slow trains vp with a slower branch of the state, vp_gap with GAP."""
    model: ModelConfig = ModelConfig()
    """The policy."""
    optimizer: OctoOptimizerConfig = OctoOptimizerConfig()
    """The optimizer."""
    train: OctoTrainConfig = OctoTrainConfig()
    """The training."""
    eval: OctoEvalConfig = OctoEvalConfig()
    """The rollouts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        token = self.model.pixels_of_token
        if self.demos.image_size % token:
            raise ConfigError(
                f"demos.image_size is {self.demos.image_size}; it must be a multiple of {token}, the pixels of a token "
                "(model.stem_features, model.stem_patch)"
            )

    @property
    def uses_proprio(self) -> bool:
        return self.method != "v"

    @property
    def schedule(self) -> AdjustmentSchedule:
        """The configured one for vp_gap, λ alone for vp_slow, none for v and vp."""
        mode = {"vp_gap": self.adjustment.mode, "vp_slow": "constant"}.get(self.method, "none")
        return dataclasses.replace(self.adjustment, mode=mode)

    def check_model(self) -> None:
        weights = self.model.pretrained
        if weights and not weights.startswith("hf://"):
            (Path(weights) / "config.json").stat()


# ---- a small Octo from scratch, which learns on two CPU cores: what the configurations of all tasks share

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

ONE_CAMERA: dict[str, Any] = dict(
    demos=dict(cameras=("primary",)),
    data=dict(augment=dict(cameras=())),
    model=dict(stem_features=(32, 64, 128, 128), stem_patch=0),
    eval=dict(execute=4),
)
"""One camera, pictures as they are, a stem of four convolutions, and four actions executed of each chunk."""

DEBUG: dict[str, Any] = dict(
    demos=dict(episodes=3),
    model=dict(token_embedding_size=64, num_layers=1, mlp_dim=64, stem_features=(32, 32, 32)),
    train=dict(steps=6, batch_size=8, log_every=2, validate_every=3, save_every=3),
    eval=dict(episodes=1, videos=1),
)
"""The same path in a minute."""


def small_octo(task: str, profile: str, profiles: Mapping[str, Any] | None = None, **changes: Any) -> FinetuneConfig:
    """A small Octo for a task.

    Args:
        profiles: by name; applied last. Default: `default` and `debug`.
        changes: of `SMALL_OCTO`, for this task.
    """
    profiles = profiles or {"default": {}, "debug": DEBUG}
    return experiment(FinetuneConfig, task, SMALL_OCTO, changes, profile_of(profiles, profile))
