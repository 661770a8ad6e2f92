"""The proprioceptive branch: what GAP adjusts (M8)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.layers import mlp


class ProprioEncoder(nn.Module):
    """An MLP on normalised proprioception, of the whole history at once or of every step by itself.

    Args:
        proprio_dim: width of one step.
        history: steps in the input.
        hidden: units of each layer and of the output.
        layers: number of layers, each followed by ReLU.
        stepwise: True gives one feature per step, False a single one of the stacked history.
    """

    def __init__(self, proprio_dim: int, history: int, hidden: int, layers: int, stepwise: bool):
        super().__init__()
        self.stepwise = stepwise
        self.layers = mlp(proprio_dim if stepwise else proprio_dim * history, hidden, layers)

    def forward(self, proprio: Float[torch.Tensor, "b w p"]) -> Float[torch.Tensor, "b w2 d"]:
        return self.layers(proprio if self.stepwise else proprio.flatten(1)[:, None])
