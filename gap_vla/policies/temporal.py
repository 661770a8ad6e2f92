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


class TemporalTransformer(nn.Module):
    """The paper's temporal transformer on the fused feature of every step; the last step's output is passed on.

    Width = heads × head_dim, learned positions, pre-norm, no dropout (a resumed run must draw nothing).
    """

    stepwise = True

    def __init__(self, config: SmallModelConfig, inputs: int):
        super().__init__()
        width = config.temporal_heads * config.temporal_head_dim
        self.output_dim = width
        self.project = nn.Linear(inputs, width)
        self.positions = nn.Parameter(torch.zeros(config.window_size, width))
        nn.init.normal_(self.positions, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, config.temporal_heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.temporal_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[torch.Tensor, "b w d"]) -> Float[torch.Tensor, "b d2"]:
        return self.norm(self.layers(self.project(tokens) + self.positions))[:, -1]
