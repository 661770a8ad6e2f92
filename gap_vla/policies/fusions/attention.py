"""Attention between the two modalities of a step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig

HEADS = 4


class Attention(nn.Module):
    """One pre-norm transformer layer over the step's two tokens, whose outputs stand side by side."""

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        width = config.feature_dim
        self.output_dim = 2 * width
        self.vision = nn.Linear(vision_dim, width)
        self.proprio = nn.Linear(proprio_dim, width)
        self.kinds = nn.Parameter(torch.zeros(2, width))
        nn.init.normal_(self.kinds, std=0.02)
        self.layer = nn.TransformerEncoderLayer(width, HEADS, 2 * width, dropout=0.0, batch_first=True, norm_first=True)

    def forward(
        self, vision: Float[torch.Tensor, "b w v"], proprio: Float[torch.Tensor, "b w p"]
    ) -> Float[torch.Tensor, "b w d"]:
        batch, window = vision.shape[:2]
        tokens = torch.stack([self.vision(vision), self.proprio(proprio)], 2) + self.kinds
        return self.layer(tokens.flatten(0, 1)).reshape(batch, window, self.output_dim)
