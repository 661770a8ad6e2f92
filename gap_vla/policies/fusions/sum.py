"""Sum of both features, each projected to the same width."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig


class Sum(nn.Module):
    """W_v vision + W_p proprio. The projections belong to the fusion: GAP does not adjust them."""

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        self.output_dim = config.feature_dim
        self.vision = nn.Linear(vision_dim, self.output_dim)
        self.proprio = nn.Linear(proprio_dim, self.output_dim)

    def forward(
        self, vision: Float[torch.Tensor, "b w v"], proprio: Float[torch.Tensor, "b w p"]
    ) -> Float[torch.Tensor, "b w d"]:
        return self.vision(vision) + self.proprio(proprio)
