"""MS-Bot (Feng et al., 2024): concat with its phase-gated fusion, whose gate is trained on the dataset's phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from gap_vla.policies.methods.base import Forward, Method

if TYPE_CHECKING:
    from gap_vla.policies.policy import SmallPolicy


class MSBot(Method):
    """The dataset's phase labels (the scripted expert's, or a human's) supervise the gate."""

    fusion = "phase_gate"
    needs_phase = True

    def loss(
        self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
    ) -> torch.Tensor:
        logits = policy.fusion.phase_logits(out.vision, out.proprio)[:, -1]
        gate = functional.cross_entropy(logits, batch["phase"])
        return super().loss(policy, batch, out, generator) + self.options.msbot_weight * gate
