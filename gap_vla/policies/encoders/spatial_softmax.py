"""Spatial softmax (Finn et al., 2016): the expected image position of every channel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn


class SpatialSoftmax(nn.Module):
    """float[N, C, h, w] to float[N, 2 C]: x and y in [-1, 1] of each channel, (x, y) side by side."""

    def forward(self, maps: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d"]:
        _, _, height, width = maps.shape
        attention = maps.float().flatten(2).softmax(-1)
        y = torch.linspace(-1, 1, height, device=maps.device).repeat_interleave(width)
        x = torch.linspace(-1, 1, width, device=maps.device).repeat(height)
        return (attention @ torch.stack([x, y], 1)).flatten(1)
