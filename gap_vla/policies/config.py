"""Configuration of a small-policy experiment; loads no torch, so a wrong value is reported at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.config import DataConfig, DemosConfig, EvalConfig, PhasesConfig, SharedStages
from gap_vla.policies import registry
from gap_vla.policies.names import METHODS
from gap_vla.sim import TASK_NAMES, VARIANT_NAMES
from gap_vla.typed_config import ConfigError, apply_changes, build_config, check_positive, choose, to_plain


@dataclasses.dataclass(frozen=True)
class SmallModelConfig:
    """The parts of the policy by name, and their sizes."""

    encoder: str = "small"
    encoder_width: int = 16  # channels of the small encoder's stem
    encoder_weights: str = ""  # .pth or .safetensors with torchvision's names, for resnet18
    feature_dim: int = 256  # of the image features per frame, and of the proprioceptive features
    image_history: int = 1  # frames that the policy sees, the present one included
    proprio_history: int = 5  # steps of proprioception that it sees
    proprio_layers: int = 3
    temporal: str = "none"  # none | transformer
    temporal_layers: int = 4
    temporal_heads: int = 6
    temporal_head_dim: int = 64
    fusion: str = "concat"
    head: str = "mlp"
    head_dim: int = 512
    head_layers: int = 2  # hidden layers of the head
    action_horizon: int = 9
    phases: int = 8  # phase tokens of the phase_gate fusion; at least as many as the dataset has phases

    def __post_init__(self) -> None:
        choose(self.encoder, tuple(registry.ENCODERS), "model.encoder")
        choose(self.temporal, tuple(registry.TEMPORALS), "model.temporal")
        choose(self.fusion, tuple(registry.FUSIONS), "model.fusion")
        choose(self.head, tuple(registry.HEADS), "model.head")
        names = [f.name for f in dataclasses.fields(self) if isinstance(getattr(self, f.name), int)]
        check_positive(self, "model", *names)
        if self.encoder_weights and self.encoder != "resnet18":
            raise ConfigError(f"model.encoder_weights is given, but model.encoder {self.encoder!r} has no such weights")
        if self.encoder == "small" and self.encoder_width % 8:
            raise ConfigError(f"model.encoder_width is {self.encoder_width}; it must be a multiple of 8 (GroupNorm)")
        if self.fusion == "attention" and self.feature_dim % 4:
            raise ConfigError(
                f"model.feature_dim is {self.feature_dim}; fusion attention needs a multiple of 4 (its heads)"
            )
        if self.temporal == "transformer" and self.image_history != self.proprio_history:
            raise ConfigError(
                f"model.image_history is {self.image_history} and model.proprio_history {self.proprio_history}; "
                "the temporal transformer fuses them step by step, so they must be equal"
            )

    @property
    def window_size(self) -> int:
        """Steps of history that a batch carries."""
        return max(self.image_history, self.proprio_history)


@dataclasses.dataclass(frozen=True)
class SmallOptimizerConfig:
    """AdamW with warm-up and cosine decay to zero."""

    learning_rate: float = 3e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_gradient: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "optimizer", "learning_rate", "clip_gradient")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError("optimizer.weight_decay and optimizer.warmup_steps must be at least 0")


@dataclasses.dataclass(frozen=True)
class SmallTrainConfig:
    """Length and rhythm of the training run, and where it runs."""

    steps: int = 2500
    epochs: int = 0  # if greater than 0: as many passes over the training windows, instead of `steps`
    batch_size: int = 64
    seed: int = 0
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 500
    threads: int = 1  # processor threads; with 1, two runs share two cores without waiting for each other
    device: str = "cpu"  # cpu | cuda
    precision: str = "bfloat16"  # of the image encoder: bfloat16 | float32

    def __post_init__(self) -> None:
        check_positive(self, "train", "steps", "batch_size", "log_every", "validate_every", "save_every", "threads")
        if self.epochs < 0:
            raise ConfigError(f"train.epochs is {self.epochs}; it must be at least 0 (0: train.steps counts)")
        choose(self.device, ("cpu", "cuda"), "train.device")
        choose(self.precision, ("bfloat16", "float32"), "train.precision")


@dataclasses.dataclass(frozen=True)
class RivalsConfig:
    """Settings of the methods other than GAP; each file in `gap_vla.policies.methods` says what they mean."""

    msbot_weight: float = 0.1
    aux_weight: float = 1.0
    mask_probability: float = 0.5
    dropout: float = 0.2
    noise: float = 0.1
    keyframe_weight: float = 4.0
    keyframe_radius: int = 5
    gradnorm_alpha: float = 1.5
    gradnorm_rate: float = 0.025
    ogm_alpha: float = 0.5

    def __post_init__(self) -> None:
        for name in ("mask_probability", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"rivals.{name} is {getattr(self, name)}; it must lie in [0, 1)")
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ConfigError(f"rivals.{field.name} is {getattr(self, field.name)}; it must be at least 0")


@dataclasses.dataclass(frozen=True)
class SmallEvalConfig:
    """Rollouts after training, the same layouts for every method and seed."""

    episodes: int = 100  # of each variant
    seed: int = 0  # first layout, counted from the first seed of each variant
    workers: int = 1
    execute: int = 1  # actions executed of each predicted chunk
    ensemble: bool = False
    videos: int = 2
    variants: tuple[str, ...] = ("default",)

    def __post_init__(self) -> None:
        check_positive(self, "eval", "workers", "execute")
        for variant in self.variants:
            choose(variant, tuple(VARIANT_NAMES), "eval.variants")
        if not self.variants or len(set(self.variants)) < len(self.variants):
            raise ConfigError(f"eval.variants is {self.variants}; name at least one variant, each once")
        if self.episodes < 0 or self.videos < 0 or self.seed < 0:
            raise ConfigError("eval.episodes, eval.videos and eval.seed must be at least 0")


@dataclasses.dataclass(frozen=True)
class SmallConfig:
    """One small-policy experiment, from demonstrations to success rates."""

    task: str
    method: str = "gap"
    runs: str = "runs"  # parent of run directories
    demos: DemosConfig = dataclasses.field(default_factory=DemosConfig)
    phases: PhasesConfig = dataclasses.field(default_factory=PhasesConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: SmallModelConfig = SmallModelConfig()
    adjustment: AdjustmentSchedule = dataclasses.field(default_factory=lambda: AdjustmentSchedule(rho="current"))
    rivals: RivalsConfig = RivalsConfig()
    optimizer: SmallOptimizerConfig = SmallOptimizerConfig()
    train: SmallTrainConfig = SmallTrainConfig()
    eval: SmallEvalConfig = SmallEvalConfig()

    def __post_init__(self) -> None:
        choose(self.task, TASK_NAMES, "task")
        choose(self.method, METHODS, "method")
        if self.eval.execute > self.model.action_horizon:
            raise ConfigError(
                f"eval.execute is {self.eval.execute}, but only model.action_horizon = {self.model.action_horizon} "
                "actions are predicted at a time"
            )

    @property
    def data_stages(self) -> SharedStages:
        """The same demonstrations, ρ and dataset for `gap_vla.pipeline`, so that all policies share them."""
        shared = EvalConfig(workers=self.eval.workers)
        return SharedStages(self.task, self.demos, self.phases, self.data, shared)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SmallConfig:
        """Builds the typed configuration.

        Raises:
            ConfigError: unknown key (names the nearest), wrong type, or an impossible value.
        """
        return build_config(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries and lists, ready for JSON; `from_dict` reads it back."""
        return to_plain(dataclasses.asdict(self))


def small_experiment(
    task: str, changes: Mapping[str, Any], profiles: Mapping[str, Mapping[str, Any]], profile: str
) -> Any:
    """The ConfigDict of one experiment file: defaults, then the file's `changes`, then those of the profile.

    Raises:
        ConfigError: unknown profile or key.
    """
    from ml_collections import ConfigDict

    choose(profile, tuple(profiles), "profile")
    values = dataclasses.asdict(SmallConfig(task=task))
    for source in (changes, profiles[profile]):
        apply_changes(values, source)
    return ConfigDict(values)
