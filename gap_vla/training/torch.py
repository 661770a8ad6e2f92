"""The backend that trains small policies, in torch: its configuration. `gap_vla.training.torch_trainer` is what trains.

Importing it loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.config import STRICT, Episodes, Steps, choose
from gap_vla.core.errors import ConfigError
from gap_vla.policies import registry
from gap_vla.policies.config import RivalsConfig, SmallModelConfig
from gap_vla.sim.variants import VARIANT_NAMES, variant_spec
from gap_vla.training.config import EvalConfig, Experiment, Layouts, TrainConfig

if TYPE_CHECKING:
    from gap_vla.policies.methods import Method


@dataclass(frozen=True, config=STRICT)
class SmallTrainConfig(TrainConfig):
    """The training, and where it runs."""

    steps: Steps = 2500
    """Training steps."""
    epochs: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Passes over the training windows; 0: train.steps counts."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor threads; with 1, two runs share two cores without waiting for each other."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the policy is trained."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the image encoder's arithmetic; auto: bfloat16 where the machine computes in it, else float32."""


@dataclass(frozen=True, config=STRICT)
class SmallEvalConfig(EvalConfig):
    """Rollouts on several variants of the task."""

    episodes: Episodes = 100
    """Rollouts of each variant; 0: the policy is only trained."""
    seed: Annotated[int, Field(ge=0, le=2_000_000_000)] = 0
    """First layout, counted from the first seed of each variant."""
    variants: Annotated[tuple[str, ...], Field(min_length=1)] = ("default",)
    """Variants of the task: the default, and those that lie out of the distribution."""

    def __post_init__(self) -> None:
        for variant in self.variants:
            choose(variant, tuple(VARIANT_NAMES), "eval.variants")

    def layouts(self) -> list[Layouts]:
        return [Layouts(name, variant_spec(name).first_seed + self.seed, name) for name in self.variants]


@dataclass(frozen=True, config=STRICT)
class SmallAdjustment(AdjustmentSchedule):
    """How the branch is slowed; method vp_slow takes `constant` and `window` alone."""

    rho: Literal["step", "current", "chunk", "chunk_max"] = "current"
    """Which ρ acts: each step's on its tokens; the present step's on all (`current`); that of each predicted action's
    step on what is learnt from this action (`chunk`), or the largest of these on all (`chunk_max`)."""


@dataclass(frozen=True, config=STRICT)
class SmallConfig(Experiment):
    """A small vision-proprioception policy from scratch."""

    backend: ClassVar[str] = "small"
    trained_by: ClassVar[str] = "gap_vla.training.torch_trainer:SmallTrainer"
    methods: ClassVar[tuple[str, ...]] = tuple(registry.METHODS)
    prefix: ClassVar[str] = "small-"

    method: str = "vp_slow"
    """Training method: v, vp, vp_slow, vp_gap, or one of the rivals and controls of docs/POLICIES.md."""
    model: SmallModelConfig = SmallModelConfig()
    """The policy."""
    adjustment: SmallAdjustment = SmallAdjustment()
    """How the branch is slowed."""
    train: SmallTrainConfig = SmallTrainConfig()
    """The training."""
    eval: SmallEvalConfig = SmallEvalConfig()
    """The rollouts."""
    rivals: RivalsConfig = RivalsConfig()
    """Settings of the methods other than GAP."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "method", registry.RECORDED.get(self.method, self.method))

    @property
    def how(self) -> Method:
        """The method with its settings; loads torch."""
        from gap_vla.policies.methods import method_of

        return method_of(self.method, self.rivals)

    @property
    def schedule(self) -> AdjustmentSchedule:
        return self.how.schedule(self.adjustment)

    @property
    def needed_labels(self) -> tuple[str, ...]:
        rho = self.how.rho_source in registry.OF_THE_DATASET and self.schedule.needs_rho
        needs = {"rho": rho, "change_point": self.how.needs_change_points, "phase": self.how.needs_phase}
        return tuple(label for label, needed in needs.items() if needed)

    def check_model(self) -> None:
        import torch

        if self.train.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("train.device is 'cuda', but torch finds no such device; use --config.train.device=cpu")
        if self.model.encoder_weights:
            Path(self.model.encoder_weights).stat()
        registry.find(registry.ENCODERS, self.model.encoder)  # whose packages may be missing
        self.how.check(self.method, self.model)
        per_step = self.schedule.mode in ("sample", "sample_lambda") and self.schedule.rho == "step"
        if per_step and self.model.temporal == "none" and self.model.proprio_history > 1:
            raise ConfigError(
                "adjustment.rho is 'step', and without model.temporal one feature is made of all steps of the state; "
                "set --config.adjustment.rho=current, or --config.model.temporal=transformer"
            )
        if self.method == "gap_watched" and self.adjustment.mode != "sample":
            raise ConfigError(f"adjustment.mode is {self.adjustment.mode!r}; method gap_watched is for mode 'sample'")


PAPER = dict(
    method="vp_gap",
    model=dict(encoder="resnet18", feature_dim=512, image_history=5, proprio_history=5, temporal="transformer"),
    optimizer=dict(learning_rate=3e-4, warmup_steps=0, weight_decay=1e-4),
    train=dict(epochs=100, batch_size=128, device="cuda", threads=4, log_every=100, validate_every=1000),
    eval=dict(episodes=100, workers=4),
)
"""The paper's recipe, for a GPU, without its demonstrations."""

EYES = dict(model=dict(encoder="efficientnet_lite0", image_history=5))
"""Pretrained eyes, and five frames, which V has as well as VP."""

DEBUG = dict(
    model=dict(encoder_width=8, feature_dim=32, head_dim=32),
    train=dict(steps=12, batch_size=8, log_every=4, validate_every=6, save_every=6),
)
"""The same path in less than a minute."""
