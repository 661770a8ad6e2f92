"""Policy types `gap_*` and the scheduler `gap`.

A policy's preset of a scheduler is wrapped by `gap`, which is built with the optimizer and the length of the run, and
counts the steps, also when a run is resumed. So it is where GAP is attached.
"""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from lerobot.configs.policies import PreTrainedConfig
from lerobot.optim.schedulers import LRSchedulerConfig
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.groot.configuration_groot import GrootConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0_fast.configuration_pi0_fast import PI0FastConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import ConfigError

POLICIES: weakref.WeakSet[Any] = weakref.WeakSet()
"""The policies of this process."""


@LRSchedulerConfig.register_subclass("gap")
@dataclass
class GapSchedulerConfig(LRSchedulerConfig):
    """The learning rate of `preset`; attaches GAP to the policy that the optimizer trains."""

    num_warmup_steps: int | None = None
    preset: dict[str, Any] | None = None
    """The `type` of a scheduler and its options; None: a constant learning rate."""

    def build(self, optimizer: Optimizer, num_training_steps: int) -> LRScheduler:
        scheduler: LRScheduler = LambdaLR(optimizer, lambda _: 1.0)
        if self.preset:
            options = dict(self.preset)
            preset = LRSchedulerConfig.get_choice_class(options.pop("type"))(**options)
            scheduler = preset.build(optimizer, num_training_steps)
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for policy in POLICIES:
            if any(id(parameter) in trained for parameter in policy.parameters()):
                policy.begin_gap(optimizer, scheduler, num_training_steps)
        return scheduler


@dataclass
class GapOptions:
    """What every `gap_*` policy takes beside its own options."""

    gap_rho: str | None = None
    """The file of ρ; None: `gap_rho.parquet` in the dataset's folder, where `gap-vla annotate` writes it."""
    gap_mode: str = "sample"
    """`sample`: GAP (M6); `constant`: λ alone, which needs no ρ."""
    gap_lambda: float = 0.3
    """λ, the factor on the updates of the state's branch."""
    gap_window: float = 0.5
    """Share of the training steps during which GAP acts, from the first one on."""
    gap_rho_form: str = "current"
    """`current`: a sample has the ρ of its own step; `chunk`: the loss of each action has the ρ of the step that the
    action is about; `chunk_max`: a sample has the largest ρ of its chunk."""
    gap_state_dropout: float = 0.0
    """Another method: the share of training samples whose state is replaced by its mean. It goes with
    `gap_window=0`, without ρ, or with GAP."""

    @property
    def gap_schedule(self) -> AdjustmentSchedule:
        factors = {"lam": self.gap_lambda, "constant": self.gap_lambda}
        return AdjustmentSchedule(mode=self.gap_mode, window=self.gap_window, rho=self.gap_rho_form, **factors)  # type: ignore[arg-type]

    def get_scheduler_preset(self) -> LRSchedulerConfig:
        _ = self.gap_schedule  # a wrong option is an error before the dataset is read
        preset = super().get_scheduler_preset()  # type: ignore[misc]
        return GapSchedulerConfig(preset={"type": preset.type, **asdict(preset)} if preset else None)


@PreTrainedConfig.register_subclass("gap_act")
@dataclass
class GapACTConfig(GapOptions, ACTConfig):
    pass


@PreTrainedConfig.register_subclass("gap_diffusion")
@dataclass
class GapDiffusionConfig(GapOptions, DiffusionConfig):
    pass


@PreTrainedConfig.register_subclass("gap_smolvla")
@dataclass
class GapSmolVLAConfig(GapOptions, SmolVLAConfig):
    pass


@PreTrainedConfig.register_subclass("gap_pi0")
@dataclass
class GapPI0Config(GapOptions, PI0Config):
    pass


@PreTrainedConfig.register_subclass("gap_groot")
@dataclass
class GapGrootConfig(GapOptions, GrootConfig):
    pass


def _refusal(policy: str) -> ConfigError:
    return ConfigError(
        f"{policy} reads the state as words of its prompt, and shares these words' embeddings with every other text: "
        "no parameter is the state's alone, so GAP cannot act. State dropout is another method for it: let a step of "
        "its preprocessor, before the prompt is made, replace the state of some training samples by its mean"
    )


@PreTrainedConfig.register_subclass("gap_pi05")
@dataclass
class GapPI05Config(PI05Config):
    def get_optimizer_preset(self) -> NoReturn:  # what lerobot-train asks for first
        raise _refusal("π0.5")


@PreTrainedConfig.register_subclass("gap_pi0_fast")
@dataclass
class GapPI0FastConfig(PI0FastConfig):
    def get_optimizer_preset(self) -> NoReturn:  # what lerobot-train asks for first
        raise _refusal("π0-FAST")
