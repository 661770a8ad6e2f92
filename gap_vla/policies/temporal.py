"""From one fused feature per step to one per window."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig


class LastStep(nn.Module):
    """No temporal model: histories come stacked into a single step, which is passed on."""

    stepwise = False

    def __init__(self, config: SmallModelConfig, inputs: int):
        super().__init__()
        self.output_dim = inputs

    def forward(self, tokens: Float[torch.Tensor, "b w d"]) -> Float[torch.Tensor, "b d2"]:
        return tokens[:, -1]
