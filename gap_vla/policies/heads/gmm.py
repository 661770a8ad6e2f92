"""Gaussian mixture over each action of the chunk, as robomimic's BC-GMM; the likeliest mode's mean is executed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.layers import mlp

MODES = 5
LEAST_STD = 0.01  # of normalised actions; without a floor, dimensions that never vary would take over the loss


class GMMHead(nn.Module):
    """Per predicted step: `MODES` diagonal Gaussians and their weights; loss is the negative log-likelihood."""

    samples = False

    def __init__(self, config: SmallModelConfig, input_dim: int, action_dim: int):
        super().__init__()
        self.horizon, self.action_dim = config.action_horizon, action_dim
        outputs = config.action_horizon * MODES * (2 * action_dim + 1)
        self.layers = mlp(input_dim, config.head_dim, config.head_layers, outputs)

    def _mixture(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        raw = self.layers(feature).unflatten(-1, (self.horizon, MODES, 2 * self.action_dim + 1))
        mean, spread = raw[..., : self.action_dim], raw[..., self.action_dim : -1]
        return raw[..., -1], mean, functional.softplus(spread) + LEAST_STD

    def predict(self, feature: Float[torch.Tensor, "b d"], generator: object = None) -> Float[torch.Tensor, "b h a"]:
        logits, mean, _ = self._mixture(feature)
        mode = logits.argmax(-1)[..., None, None].expand(*mean.shape[:2], 1, self.action_dim)
        return mean.gather(2, mode).squeeze(2)

    def loss(
        self, feature: Float[torch.Tensor, "b d"], action: Float[torch.Tensor, "b h a"], generator: object = None
    ) -> Float[torch.Tensor, "b h"]:
        logits, mean, std = self._mixture(feature)
        distance = ((action[:, :, None] - mean) / std).square()
        density = -0.5 * (distance + math.log(2 * math.pi)) - std.log()
        return -torch.logsumexp(logits.log_softmax(-1) + density.sum(-1), -1)
