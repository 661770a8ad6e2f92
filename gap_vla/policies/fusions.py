"""How the branches become the head's input: the fusion of each step, and the temporal model over the steps.

A fusion is `Fusion(config, vision_dim, proprio_dim)` and a temporal model `Temporal(config, inputs)`, both with
`output_dim`; GAP adjusts the parameters of neither.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders import mlp

VisionTokens = Float[torch.Tensor, "b w v"]
ProprioTokens = Float[torch.Tensor, "b w p"]


class Concat(nn.Module):
    """[vision, proprio]."""

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        self.output_dim = vision_dim + proprio_dim

    def forward(self, vision: VisionTokens, proprio: ProprioTokens) -> Float[torch.Tensor, "b w d"]:
        return torch.cat([vision, proprio], -1)


class Sum(nn.Module):
    """W_v vision + W_p proprio."""

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        self.output_dim = config.feature_dim
        self.vision = nn.Linear(vision_dim, self.output_dim)
        self.proprio = nn.Linear(proprio_dim, self.output_dim)

    def forward(self, vision: VisionTokens, proprio: ProprioTokens) -> Float[torch.Tensor, "b w d"]:
        return self.vision(vision) + self.proprio(proprio)


class FiLM(nn.Module):
    """(1 + γ(proprio)) · vision + β(proprio) (Perez et al., 2018); γ and β start near zero."""

    def __init__(self, config: SmallModelConfig, vision_dim: int, proprio_dim: int):
        super().__init__()
        self.output_dim = vision_dim
        self.modulation = nn.Linear(proprio_dim, 2 * vision_dim)
        nn.init.normal_(self.modulation.weight, std=1e-3)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, vision: VisionTokens, proprio: ProprioTokens) -> Float[torch.Tensor, "b w d"]:
        scale, shift = self.modulation(proprio).chunk(2, -1)
        return (1 + scale) * vision + shift


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
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, vision: VisionTokens, proprio: ProprioTokens) -> Float[torch.Tensor, "b w d"]:
        batch, window = vision.shape[:2]
        tokens = torch.stack([self.vision(vision), self.proprio(proprio)], 2) + self.kinds
        return self.layer(tokens.flatten(0, 1)).reshape(batch, window, self.output_dim)


class PhaseGate(nn.Module):
    """MS-Bot's fusion (Feng et al., 2024), for two modalities.

    A gate predicts the phase; the expected phase token, added to the state, asks both modalities for their scores.

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
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)

    def phase_logits(self, vision: VisionTokens, proprio: ProprioTokens) -> Float[torch.Tensor, "b w k"]:
        """Unnormalised log-probability of every phase, to be trained against the dataset's labels."""
        return self.gate(self.state(torch.cat([self.vision(vision), self.proprio(proprio)], -1)))

    def forward(self, vision: VisionTokens, proprio: ProprioTokens) -> Float[torch.Tensor, "b w d"]:
        values = torch.stack([self.vision(vision), self.proprio(proprio)], -2)
        state = self.state(values.flatten(-2))
        query = self.query(state + self.gate(state).softmax(-1) @ self.tokens)
        scores = (self.key(values) @ query[..., None] / query.shape[-1] ** 0.5).softmax(-2)
        return torch.cat([(scores * values).sum(-2), state], -1)


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
