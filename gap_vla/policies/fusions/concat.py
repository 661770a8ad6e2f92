"""Concatenation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig


class Concat(nn.Module):
    """[vision, proprio]."""

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        self.output_dim = vision_dim + proprio_dim

    def forward(
        self, vision: Float[torch.Tensor, "b w v"], proprio: Float[torch.Tensor, "b w p"]
    ) -> Float[torch.Tensor, "b w d"]:
        return torch.cat([vision, proprio], -1)
