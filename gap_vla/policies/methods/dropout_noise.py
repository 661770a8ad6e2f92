"""Dropout and noise: concat, with single entries of proprioception dropped and all of them disturbed in training."""

from __future__ import annotations

from typing import Any

import torch

from gap_vla.policies.methods.base import Method


class DropoutNoise(Method):
    """Noise in units of the normalised signal; a dropped entry is zero, the mean, at all steps of the history."""

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        proprio = batch["proprio"]
        noise = torch.randn(proprio.shape, generator=generator).to(proprio)
        kept = torch.rand((len(proprio), 1, proprio.shape[-1]), generator=generator) >= self.options.dropout
        return {**batch, "proprio": (proprio + self.options.noise * noise) * kept.to(proprio)}
