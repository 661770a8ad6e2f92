"""Experiment configuration: frozen dataclasses that reject unknown keys and impossible values.

A file in `finetune_configs/` returns an `ml_collections.ConfigDict`; `FinetuneConfig.from_dict` turns it into these
types. Only the standard library is imported, so a wrong value is reported before TensorFlow, JAX or MuJoCo load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.phases import METHODS as METHODS_OF_RHO
from gap_vla.sim import TASK_NAMES, VARIANT_NAMES
from gap_vla.training.rivals import RIVALS, rival_of
from gap_vla.typed_config import (
    ConfigError,
    apply_changes,
    build_config,
    check_fraction,
    check_positive,
    choose,
    to_plain,
)

METHODS = ("v", "vp", "vp_gap", *RIVALS)
"""V sees images only; VP adds proprioception; VP+GAP trains VP with gradient adjustment; rivals train VP their way."""


@dataclasses.dataclass(frozen=True)
class DemosConfig:
    """Demonstrations: from a file of other people's tools, or from the scripted expert in the simulator."""

    episodes: int = 100
    seed: int = 0
    image_size: int = 64  # pixels, square
    cameras: tuple[str, ...] = ("primary",)
    action_noise: float = 0.0  # std of what disturbs the executed action; the recorded label stays clean
    path: str = ""  # an existing demonstration file or folder; empty: collect from the expert
    kind: str = "robomimic_hdf5"  # reader of `path`

    def __post_init__(self) -> None:
        check_positive(self, "demos", "episodes", "image_size")
        for camera in self.cameras:
            choose(camera, ("primary", "wrist"), "demos.cameras")
        if self.action_noise < 0:
            raise ConfigError(f"demos.action_noise is {self.action_noise}; it must be at least 0")


@dataclasses.dataclass(frozen=True)
class PhasesConfig:
    """How ρ is found (M1 to M5)."""

    method: str = "lstm"
    seed: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        choose(self.method, (*METHODS_OF_RHO, "none"), "phases.method")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The RLDS dataset and how windows are read from it."""

    root: str = "data"  # where collected demonstrations, RLDS datasets and episode stores are kept
    rlds: str = ""  # an existing RLDS dataset (…/name/version) with steps/rho; empty: made from the demonstrations
    val_fraction: float = 0.1
    normalization: str = "normal"  # of action and proprio: normal | bounds
    shuffle_images: bool = False  # a control that cannot see: train with pictures of other episodes (EVALUATION.md)

    def __post_init__(self) -> None:
        check_fraction(self, "data", "val_fraction")
        choose(self.normalization, ("normal", "bounds"), "data.normalization")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Octo: pretrained weights, or a small one from scratch."""

    pretrained: str = ""  # checkpoint directory or hf://…; empty: the small model below
    window_size: int = 1
    action_horizon: int = 8
    head: str = "l1"  # l1 | mse | diffusion
    token_embedding_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_dim: int = 256
    stem_features: tuple[int, ...] = (32, 64, 128)  # one stride-2 stage each, multiples of 32

    def __post_init__(self) -> None:
        choose(self.head, ("l1", "mse", "diffusion"), "model.head")
        check_positive(self, "model", "window_size", "action_horizon", "num_layers", "num_heads", "mlp_dim")
        if self.token_embedding_size % self.num_heads or self.token_embedding_size % 8:
            raise ConfigError(
                f"model.token_embedding_size is {self.token_embedding_size}; it must be divisible by "
                f"model.num_heads ({self.num_heads}) and by 8 (the heads' attention pooling)"
            )
        if not self.stem_features or any(f % 32 for f in self.stem_features):
            raise ConfigError(f"model.stem_features is {self.stem_features}; each must be a multiple of 32 (GroupNorm)")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay over the training run, as upstream."""

    learning_rate: float = 3e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_gradient: float = 1.0
    frozen_keys: tuple[str, ...] = ()
    moment_dtype: str = "bfloat16"  # of AdamW's stored first moment; upstream's is bfloat16

    def __post_init__(self) -> None:
        check_positive(self, "optimizer", "learning_rate", "clip_gradient")
        choose(self.moment_dtype, ("bfloat16", "float32"), "optimizer.moment_dtype")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError("optimizer.weight_decay and optimizer.warmup_steps must be at least 0")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length and rhythm of the training run."""

    steps: int = 2000
    batch_size: int = 64
    seed: int = 0
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 500
    accumulate: int = 1  # parts that a batch is computed in, one after the other, to save memory
    fsdp: int = 1  # devices that share one copy of parameters and optimizer; the others repeat it

    def __post_init__(self) -> None:
        check_positive(self, "train", *(field.name for field in dataclasses.fields(self) if field.name != "seed"))
        if self.batch_size % self.accumulate:
            raise ConfigError(f"train.accumulate {self.accumulate} does not divide train.batch_size {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Rollouts in the simulator after training."""

    episodes: int = 20
    seed: int = 100_000  # first layout; demonstrations use seeds from demos.seed on
    workers: int = 2
    execute: int = 4  # actions executed of each predicted chunk
    ensemble: bool = False  # temporal ensembling instead of executing chunks
    videos: int = 4
    variant: str = "default"  # out-of-distribution variant of the task, by name

    def __post_init__(self) -> None:
        check_positive(self, "eval", "workers", "execute")
        choose(self.variant, tuple(VARIANT_NAMES), "eval.variant")
        if self.episodes < 0 or self.videos < 0:
            raise ConfigError("eval.episodes and eval.videos must be at least 0")


@dataclasses.dataclass(frozen=True)
class SharedStages:
    """What the stages before training read of an experiment, whatever policy is trained."""

    task: str
    demos: DemosConfig
    phases: PhasesConfig
    data: DataConfig
    eval: EvalConfig


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """One experiment, from demonstrations to a success rate."""

    task: str
    method: str = "vp_gap"
    runs: str = "runs"  # parent of run directories
    demos: DemosConfig = DemosConfig()
    phases: PhasesConfig = PhasesConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    adjustment: AdjustmentSchedule = dataclasses.field(default_factory=AdjustmentSchedule)
    rival: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options of a rival method
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self) -> None:
        choose(self.task, TASK_NAMES, "task")
        choose(self.method, METHODS, "method")
        if self.demos.image_size % 16:
            raise ConfigError(f"demos.image_size is {self.demos.image_size}; Octo's stem needs a multiple of 16")
        rival_of(self.method, self.rival)
        if self.eval.execute > self.model.action_horizon:
            raise ConfigError(
                f"eval.execute is {self.eval.execute}, but only model.action_horizon = {self.model.action_horizon} "
                "actions are predicted at a time"
            )

    @property
    def uses_proprio(self) -> bool:
        return self.method != "v"

    @property
    def schedule(self) -> AdjustmentSchedule:
        """The adjustment of this method: the configured one for vp_gap, none for v and vp, a rival's own."""
        rival = rival_of(self.method, self.rival)
        none = AdjustmentSchedule(mode="none")
        return self.adjustment if self.method == "vp_gap" else rival.schedule if rival else none

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """Builds the typed configuration.

        Raises:
            ConfigError: unknown key (names the nearest), wrong type, or an impossible value.
        """
        return build_config(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries and lists, ready for JSON; `from_dict` reads it back."""
        return to_plain(dataclasses.asdict(self))


def experiment(task: str, changes: Mapping[str, Any], profiles: Mapping[str, Mapping[str, Any]], profile: str) -> Any:
    """The ConfigDict of one experiment file: defaults, then the file's `changes`, then those of the profile.

    Every key is present, so that each can be overridden on the command line.

    Raises:
        ConfigError: unknown profile or key.
    """
    from ml_collections import ConfigDict

    choose(profile, tuple(profiles), "profile")
    values = dataclasses.asdict(FinetuneConfig(task=task))
    for source in (changes, profiles[profile]):
        apply_changes(values, source)
    return ConfigDict(values)
