"""Mask: concat, with the whole proprioceptive history of random samples hidden in training."""

from __future__ import annotations

from typing import Any

import torch

from gap_vla.policies.methods.base import Method


class Mask(Method):
    """A hidden history is all zeros, which is the dataset's mean; rollouts see everything."""

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        proprio = batch["proprio"]
        shown = torch.rand(len(proprio), generator=generator) >= self.options.mask_probability
        return {**batch, "proprio": proprio * shown.to(proprio)[:, None, None]}
