"""What a training method may change, with `concat` as the default: vision and proprioception, trained plainly."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from gap_vla.adjustment.schedule import AdjustmentSchedule

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
        needs_rho: the dataset must carry ρ.
        rho_source: "dataset", "zero", or a method of `gap_vla.phases` that labels the stored proprioception.
    """

    vision = True
    proprio = True
    fusion = ""
    needs_rho = False
    rho_source = "dataset"

    def schedule(self, configured: AdjustmentSchedule) -> AdjustmentSchedule:
        """The gradient adjustment of this method (M6); none by default."""
        return dataclasses.replace(configured, mode="none")

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """What the policy is shown of a training batch; the generator is seeded from run and step."""
        return batch

    def loss(self, policy: SmallPolicy, batch: dict[str, Any], out: Forward) -> torch.Tensor:
        """The scalar to minimise: by default the mean over all actions before the episode's end."""
        return masked_mean(out.loss, batch["action_pad_mask"])

    def after_backward(self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, step: int, total: int) -> None:
        """Changes gradients in place, before clipping."""


class Concat(Method):
    """The baseline."""


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is True."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum()
