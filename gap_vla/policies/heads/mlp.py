"""Regression of the chunk with mean squared error, the paper's head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.layers import mlp


class MLPHead(nn.Module):
    """Hidden layers with ReLU, then all actions of the chunk at once."""

    samples = False

    def __init__(self, config: SmallModelConfig, input_dim: int, action_dim: int):
        super().__init__()
        self.shape = (config.action_horizon, action_dim)
        self.layers = mlp(input_dim, config.head_dim, config.head_layers, config.action_horizon * action_dim)

    def predict(self, feature: Float[torch.Tensor, "b d"], generator: object = None) -> Float[torch.Tensor, "b h a"]:
        return self.layers(feature).unflatten(-1, self.shape)

    def loss(
        self,
        feature: Float[torch.Tensor, "b d"],
        action: Float[torch.Tensor, "b h a"],
        generator: object = None,
    ) -> Float[torch.Tensor, "b h"]:
        return (self.predict(feature) - action).square().mean(-1)
