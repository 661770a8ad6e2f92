"""What each branch contributes, at single training steps: gradient norms and losses, split by ρ.

`branch/<branch>_gradient`       norm of the branch's parameter gradient as the optimizer gets it (after GAP, unclipped)
`branch/<branch>_signal_<part>`  mean norm of the loss gradient at the branch's features, per sample, before GAP
`branch/<branch>_loss_<part>`    loss of what the policy does with this branch alone: the other branch's features are
                                 replaced by their mean over the batch

`<branch>` is vision or proprio, `<part>` transition (the dataset's ρ of the present step > 0.5, whatever ρ the method
trains with) or consistent. A part without any sample in the batch is left out.
"""

from __future__ import annotations

from typing import Any

import torch

from gap_vla.policies.methods import Forward
from gap_vla.policies.policy import SmallPolicy


def watch(out: Forward) -> None:
    """Keeps the gradients at the branches' features; call between forward and backward."""
    for features in (out.vision, out.proprio):
        if features is not None and features.requires_grad:
            features.retain_grad()


@torch.no_grad()
def branch_gradients(policy: SmallPolicy) -> dict[str, float]:
    """Norm of every branch's parameter gradient; call after backward, before clipping."""
    found = {}
    for name, branch in policy.branches.items():
        squares = [float(p.grad.square().sum()) for p in branch.parameters() if p.grad is not None]
        found[f"branch/{name}_gradient"] = sum(squares) ** 0.5
    return found


@torch.no_grad()
def branch_measurements(
    policy: SmallPolicy, batch: dict[str, Any], out: Forward, generator: torch.Generator
) -> dict[str, float]:
    """Signals and losses of the branches; the module says what they are."""
    transition = batch["transition"]
    parts = {"transition": transition, "consistent": ~transition}
    found: dict[str, float] = {}
    for name, features in (("vision", out.vision), ("proprio", out.proprio)):
        if features is None or features.grad is None:
            continue
        norms = features.grad.flatten(1).norm(dim=1) * len(features)  # the loss is a mean over samples
        for part, rows in parts.items():
            if rows.any():
                found[f"branch/{name}_signal_{part}"] = float(norms[rows].mean())
    if out.vision is None or out.proprio is None:
        return found
    means = {name: f.mean(0, keepdim=True).expand_as(f) for name, f in (("v", out.vision), ("p", out.proprio))}
    for name, pair in (("vision", (out.vision, means["p"])), ("proprio", (means["v"], out.proprio))):
        loss = policy.head.loss(policy.embed(*pair), batch["action"], generator)
        for part, rows in parts.items():
            weight = batch["action_pad_mask"] & rows[:, None]
            if weight.any():
                found[f"branch/{name}_loss_{part}"] = float((loss * weight).sum() / weight.sum())
    return found
