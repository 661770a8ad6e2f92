"""Keyframe: concat, with a larger loss for samples near a change point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gap_vla.policies.methods.base import Forward, Method

if TYPE_CHECKING:
    from gap_vla.policies.policy import SmallPolicy


class Keyframe(Method):
    """Samples whose present step lies within `keyframe_radius` steps of a change point weigh `keyframe_weight`."""

    needs_change_points = True

    def loss(
        self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
    ) -> torch.Tensor:
        near = batch["change_distance"] <= self.options.keyframe_radius
        weight = torch.where(near, self.options.keyframe_weight, 1.0)[:, None] * batch["action_pad_mask"]
        return (out.loss * weight).sum() / weight.sum()
