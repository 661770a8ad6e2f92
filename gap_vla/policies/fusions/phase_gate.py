"""MS-Bot's fusion (Feng et al., 2024), for two modalities: the predicted phase decides how much each one counts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.layers import mlp


class PhaseGate(nn.Module):
    """A gate predicts the phase; the expected phase token, added to the state, asks both modalities for their scores.

    out = Σ_m s_m · v_m with s = softmax(q · k_m / √d) over the modalities, q = state + Σ_k p_k · token_k,
    p = softmax(gate(state)), beside the state itself.
    """

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        width = config.feature_dim
        self.output_dim = 2 * width
        self.vision = nn.Linear(vision_dim, width)
        self.proprio = nn.Linear(proprio_dim, width)
        self.state = mlp(2 * width, width, 1)
        self.gate = nn.Linear(width, config.phases)
        self.tokens = nn.Parameter(torch.zeros(config.phases, width))
        nn.init.normal_(self.tokens, std=0.02)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def phase_logits(
        self, vision: Float[torch.Tensor, "b w v"], proprio: Float[torch.Tensor, "b w p"]
    ) -> Float[torch.Tensor, "b w k"]:
        """Unnormalised log-probability of every phase, to be trained against the dataset's labels."""
        return self.gate(self.state(torch.cat([self.vision(vision), self.proprio(proprio)], -1)))

    def forward(
        self, vision: Float[torch.Tensor, "b w v"], proprio: Float[torch.Tensor, "b w p"]
    ) -> Float[torch.Tensor, "b w d"]:
        values = torch.stack([self.vision(vision), self.proprio(proprio)], -2)
        state = self.state(values.flatten(-2))
        query = self.query(state + self.gate(state).softmax(-1) @ self.tokens)
        scores = (self.key(values) @ query[..., None] / query.shape[-1] ** 0.5).softmax(-2)
        return torch.cat([(scores * values).sum(-2), state], -1)
