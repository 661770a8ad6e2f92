"""OGM-GE (Peng et al., 2022): concat, with the gradients of the branch that does better alone held back.

Their score is the probability of the right class; for regression the inverse loss of each branch alone takes its
place. Under AdamW a factor that stays the same cancels: what acts is how it changes from step to step, and the noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gap_vla.policies.methods.base import Forward, Method, losses_alone

if TYPE_CHECKING:
    from gap_vla.policies.policy import SmallPolicy


class OgmGe(Method):
    """k = 1 − tanh(α · ratio) for the better branch (ratio > 1), 1 for the other; noise with the gradient's own std."""

    heads = ("mlp", "diffusion")

    @torch.no_grad()
    def after_backward(
        self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
    ) -> None:
        vision, proprio = losses_alone(policy, batch, out, generator)
        ratio = {"vision": proprio / vision, "proprio": vision / proprio}
        for name, branch in policy.branches.items():
            if not bool(ratio[name] > 1):
                continue
            factor = 1 - torch.tanh(self.options.ogm_alpha * ratio[name])
            for parameter in branch.parameters():
                if parameter.grad is None:
                    continue
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.grad)
                spread = parameter.grad.std(correction=0)
                parameter.grad.mul_(factor).add_(noise * spread)
