"""What a training method may change, with `concat` as the default: vision and proprioception, trained plainly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.config import RivalsConfig, SmallConfig

if TYPE_CHECKING:
    from gap_vla.policies.policy import SmallPolicy


@dataclasses.dataclass(frozen=True)
class Forward:
    """One forward pass: features of the branches float[B, W, D], the head's input float[B, D], loss float[B, H]."""

    vision: torch.Tensor | None
    proprio: torch.Tensor | None
    feature: torch.Tensor
    loss: torch.Tensor


class Method:
    """Plain training of both branches; subclasses override what they do differently.

    Attributes:
        vision, proprio: which branches the policy has.
        fusion: name of a fusion of the method's own, or empty for the configured one.
        heads: the action heads it works with; empty: all.
        needs_rho, needs_change_points, needs_phase: what the dataset must carry.
        rho_source: "dataset", "zero", or a method of `gap_vla.phases` that labels the stored proprioception.
    """

    vision = True
    proprio = True
    fusion = ""
    heads: tuple[str, ...] = ()
    needs_rho = False
    needs_change_points = False
    needs_phase = False
    rho_source = "dataset"

    def __init__(self, options: RivalsConfig | None = None) -> None:
        self.options = options or RivalsConfig()

    def check(self, config: SmallConfig) -> None:
        """Raises ConfigError if method, fusion and head do not fit together."""
        if self.fusion and config.model.fusion not in ("concat", self.fusion):
            raise ConfigError(
                f"method {config.method} brings its own fusion {self.fusion!r}; model.fusion {config.model.fusion!r} "
                "would be ignored: leave it at 'concat', or choose another method"
            )
        if self.heads and config.model.head not in self.heads:
            raise ConfigError(
                f"method {config.method} compares losses as ratios, which head {config.model.head!r} does not allow "
                f"(its loss can be negative); choose model.head {' or '.join(self.heads)}"
            )
        if not (self.vision and self.proprio) and config.model.fusion != "concat":
            raise ConfigError(
                f"method {config.method} has a single branch and fuses nothing; leave model.fusion at 'concat', or "
                "choose a method with both branches"
            )

    def extras(self, policy: SmallPolicy) -> Mapping[str, nn.Module]:
        """Modules that only training needs; they become `policy.extras` and are saved with it."""
        return {}

    def schedule(self, configured: AdjustmentSchedule) -> AdjustmentSchedule:
        """The gradient adjustment of this method (M6); none by default."""
        return dataclasses.replace(configured, mode="none")

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """What the policy is shown of a training batch; the generator (on the CPU) is seeded from run and step."""
        return batch

    def loss(
        self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
    ) -> torch.Tensor:
        """The scalar to minimise: by default the mean over all actions before the episode's end."""
        return masked_mean(out.loss, batch["action_pad_mask"])

    def after_backward(
        self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
    ) -> None:
        """Changes gradients in place, before clipping."""


class Concat(Method):
    """The baseline."""


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is True."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum()


def losses_alone(
    policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss from vision alone and from proprioception alone: through the same fusion and head, with the other
    branch's features at zero, which after their ReLU means that it saw nothing.
    """
    assert out.vision is not None and out.proprio is not None
    found = []
    for pair in ((out.vision, torch.zeros_like(out.proprio)), (torch.zeros_like(out.vision), out.proprio)):
        values = policy.head.loss(policy.embed(*pair), batch["action"], generator)
        found.append(masked_mean(values, batch["action_pad_mask"]))
    return found[0], found[1]
