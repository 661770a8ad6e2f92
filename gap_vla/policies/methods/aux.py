"""Aux: concat, plus a second head that must predict the actions from the image features alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gap_vla.policies import registry
from gap_vla.policies.methods.base import Forward, Method, masked_mean

if TYPE_CHECKING:
    from gap_vla.policies.policy import SmallPolicy


class Aux(Method):
    """The auxiliary head is not used in rollouts."""

    def extras(self, policy: SmallPolicy) -> Mapping[str, nn.Module]:
        head = registry.find(registry.HEADS, policy.config.head)
        return {"vision_head": head(policy.config, policy.vision_dim, policy.action_dim)}

    def loss(
        self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
    ) -> torch.Tensor:
        assert out.vision is not None
        values = policy.extras["vision_head"].loss(out.vision[:, -1], batch["action"], generator)
        alone = masked_mean(values, batch["action_pad_mask"])
        return super().loss(policy, batch, out, generator) + self.options.aux_weight * alone
