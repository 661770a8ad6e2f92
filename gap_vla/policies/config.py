"""Configuration of a small-policy experiment; loads no torch, so a wrong value is reported at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.typed_config import (
    SEED,
    STEPS,
    Bounds,
    ConfigError,
    Items,
    apply_changes,
    build_config,
    check_numbers,
    choose,
    to_plain,
)
from gap_vla.policies import registry
from gap_vla.sim import TASK_NAMES, VARIANT_NAMES
from gap_vla.training.config import (
    BATCH,
    CLIP,
    DECAY,
    EPISODES,
    HORIZON,
    LAYOUT_SEED,
    PEAK_RATE,
    STEP_COUNT,
    WORKERS,
    DataConfig,
    DemosConfig,
    EvalConfig,
    PhasesConfig,
    SharedStages,
    check_pictures,
)

LAYERS = Bounds(1, 32, "each a matrix; the recipe has 2 to 4")
WIDTH = Bounds(1, 8192, "numbers of a feature; the recipe has 512")
WEIGHT = Bounds(0, 1000, "beside a loss of weight 1")
PROBABILITY = Bounds(0, 0.999, "something must be left")


@dataclasses.dataclass(frozen=True)
class SmallModelConfig:
    """The parts of the policy by name, and their sizes."""

    encoder: str = "small"
    # channels of the small encoder's stem
    encoder_width: Annotated[int, Bounds(8, 1024, "channels in groups of 8")] = 16
    encoder_weights: str = ""  # .pth or .safetensors with torchvision's names, for resnet18
    feature_dim: Annotated[int, WIDTH] = 256  # of the image features per frame, and of the proprioceptive features
    # frames that the policy sees, the present one included
    image_history: Annotated[int, Bounds(1, 64, "pictures that are encoded for one action")] = 1
    proprio_history: Annotated[int, HORIZON] = 5  # steps of proprioception that it sees
    proprio_layers: Annotated[int, LAYERS] = 3
    temporal: str = "none"  # none | transformer
    temporal_layers: Annotated[int, LAYERS] = 4
    temporal_heads: Annotated[int, Bounds(1, 64, "the recipe has 6")] = 6
    temporal_head_dim: Annotated[int, Bounds(1, 512, "the recipe has 64")] = 64
    fusion: str = "concat"
    head: str = "mlp"
    head_dim: Annotated[int, WIDTH] = 512
    head_layers: Annotated[int, LAYERS] = 2  # hidden layers of the head
    action_horizon: Annotated[int, HORIZON] = 9
    # phase tokens of the phase_gate fusion; at least as many as the dataset has phases
    phases: Annotated[int, Bounds(1, 256, "a task has some ten")] = 8

    def __post_init__(self) -> None:
        choose(self.encoder, tuple(registry.ENCODERS), "model.encoder")
        choose(self.temporal, tuple(registry.TEMPORALS), "model.temporal")
        choose(self.fusion, tuple(registry.FUSIONS), "model.fusion")
        choose(self.head, tuple(registry.HEADS), "model.head")
        check_numbers(self, "model")
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

    learning_rate: Annotated[float, PEAK_RATE] = 3e-4
    warmup_steps: Annotated[int, Bounds(0, STEPS, "steps are counted in 32 bits")] = 100
    weight_decay: Annotated[float, DECAY] = 0.01
    clip_gradient: Annotated[float, CLIP] = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "optimizer")


@dataclasses.dataclass(frozen=True)
class SmallTrainConfig:
    """Length and rhythm of the training run, and where it runs."""

    steps: Annotated[int, STEP_COUNT] = 2500
    epochs: Annotated[int, Bounds(0, 100_000, "0: train.steps counts")] = 0  # passes over the training windows instead
    batch_size: Annotated[int, BATCH] = 64
    seed: Annotated[int, SEED] = 0
    log_every: Annotated[int, STEP_COUNT] = 50
    validate_every: Annotated[int, STEP_COUNT] = 500
    save_every: Annotated[int, STEP_COUNT] = 500
    # processor threads; with 1, two runs share two cores without waiting for each other
    threads: Annotated[int, Bounds(1, 256, "processors of a machine")] = 1
    device: str = "cpu"  # cpu | cuda
    precision: str = "bfloat16"  # of the image encoder: bfloat16 | float32

    def __post_init__(self) -> None:
        check_numbers(self, "train")
        choose(self.device, ("cpu", "cuda"), "train.device")
        choose(self.precision, ("bfloat16", "float32"), "train.precision")


@dataclasses.dataclass(frozen=True)
class RivalsConfig:
    """Settings of the methods other than GAP; each class in `gap_vla.policies.rivals` says what they mean."""

    msbot_weight: Annotated[float, WEIGHT] = 0.1
    aux_weight: Annotated[float, WEIGHT] = 1.0
    mask_probability: Annotated[float, PROBABILITY] = 0.5
    dropout: Annotated[float, PROBABILITY] = 0.2
    noise: Annotated[float, Bounds(0, 100, "standard deviations of the state")] = 0.1
    keyframe_weight: Annotated[float, WEIGHT] = 4.0
    keyframe_radius: Annotated[int, Bounds(0, 256, "control steps around a change point")] = 5
    gradnorm_alpha: Annotated[float, Bounds(0, 100, "an exponent; the authors' are below 3")] = 1.5
    gradnorm_rate: Annotated[float, Bounds(0, 1, "how far a weight of about 1 moves in a step")] = 0.025
    ogm_alpha: Annotated[float, Bounds(0, 100, "inside a tanh")] = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, "rivals")


@dataclasses.dataclass(frozen=True)
class SmallEvalConfig:
    """Rollouts after training, the same layouts for every method and seed."""

    episodes: Annotated[int, EPISODES] = 100  # of each variant
    seed: Annotated[int, LAYOUT_SEED] = 0  # first layout, counted from the first seed of each variant
    workers: Annotated[int, WORKERS] = 1
    execute: Annotated[int, HORIZON] = 1  # actions executed of each predicted chunk
    ensemble: bool = False
    videos: Annotated[int, EPISODES] = 2
    variants: Annotated[tuple[str, ...], Items(1, len(VARIANT_NAMES))] = ("default",)

    def __post_init__(self) -> None:
        check_numbers(self, "eval")
        for variant in self.variants:
            choose(variant, tuple(VARIANT_NAMES), "eval.variants")
        if len(set(self.variants)) < len(self.variants):
            raise ConfigError(f"eval.variants is {self.variants}; name each once")


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
        object.__setattr__(self, "method", registry.method_name(self.method, registry.METHODS))
        check_pictures(self.task, self.demos, self.data)
        smallest = registry.SMALLEST_IMAGE[self.model.encoder]
        if self.demos.image_size < smallest:
            raise ConfigError(
                f"demos.image_size is {self.demos.image_size}; model.encoder {self.model.encoder!r} needs at least "
                f"{smallest}"
            )
        if self.eval.execute > self.model.action_horizon:
            raise ConfigError(
                f"eval.execute is {self.eval.execute}, but only model.action_horizon = {self.model.action_horizon} "
                "actions are predicted at a time"
            )

    @property
    def data_stages(self) -> SharedStages:
        """The same demonstrations, ρ and dataset for `gap_vla.training.pipeline`, so that all policies share them."""
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
