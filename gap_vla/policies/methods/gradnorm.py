"""GradNorm (Chen et al., 2018): concat, with losses of each modality alone, weighted so that they learn equally fast.

The tasks are the fused prediction, vision alone and proprioception alone, all through the same fusion and head, whose
first layer is the shared one of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gap_vla.policies.methods.base import Forward, Method, losses_alone

if TYPE_CHECKING:
    from gap_vla.policies.policy import SmallPolicy

TASKS = 3


class TaskWeights(nn.Module):
    """Weights of the three losses and their first values; buffers, so that a resumed run goes on with them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(TASKS))
        self.register_buffer("first", torch.zeros(TASKS))


class GradNorm(Method):
    """w_i moves against the sign of ‖w_i ∇L_i‖ − mean_j ‖w_j ∇L_j‖ · r_i^α, r_i the relative inverse training rate."""

    heads = ("mlp", "diffusion")

    def extras(self, policy: SmallPolicy) -> Mapping[str, nn.Module]:
        return {"task_weights": TaskWeights()}

    def loss(
        self, policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
    ) -> torch.Tensor:
        fused = super().loss(policy, batch, out, generator)
        tasks = torch.stack([fused, *losses_alone(policy, batch, out, generator)])
        state = policy.extras["task_weights"]
        if not bool(state.first.any()):
            state.first.copy_(tasks.detach())
        shared = policy.head.layers[0].weight
        norms = torch.stack([torch.autograd.grad(task, shared, retain_graph=True)[0].norm() for task in tasks])
        progress = tasks.detach() / state.first.clamp_min(1e-8)
        rate = progress / progress.mean()
        weighted = norms * state.weight
        target = weighted.mean() * rate**self.options.gradnorm_alpha
        used = state.weight.clone()
        moved = used - self.options.gradnorm_rate * torch.sign(weighted - target) * norms
        moved = moved.clamp_min(1e-3)
        state.weight.copy_(moved * TASKS / moved.sum())
        return (used * tasks).sum()
