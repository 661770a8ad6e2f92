"""FiLM (Perez et al., 2018): proprioception scales and shifts the image features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig


class FiLM(nn.Module):
    """(1 + γ(proprio)) · vision + β(proprio); γ and β start near zero."""

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        self.output_dim = vision_dim
        self.modulation = nn.Linear(proprio_dim, 2 * vision_dim)
        nn.init.normal_(self.modulation.weight, std=1e-3)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, vision: Float[torch.Tensor, "b w v"], proprio: Float[torch.Tensor, "b w p"]
    ) -> Float[torch.Tensor, "b w d"]:
        scale, shift = self.modulation(proprio).chunk(2, -1)
        return (1 + scale) * vision + shift
