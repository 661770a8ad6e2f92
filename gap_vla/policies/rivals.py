"""Other people's ways to balance the modalities, beside which GAP is measured; their settings are `RivalsConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gap_vla.policies import registry
from gap_vla.policies.methods import Forward, Method, masked_mean
from gap_vla.policies.policy import SmallPolicy


class MSBot(Method):
    """MS-Bot (Feng et al., 2024): its phase-gated fusion, whose gate is trained on the dataset's phase labels (the
    scripted expert's, or a human's).
    """

    fusion = "phase_gate"
    needs_phase = True

    def loss(self, out: Forward, generator: torch.Generator) -> torch.Tensor:
        logits = out.policy.fusion.phase_logits(out.vision, out.proprio)[:, -1]
        gate = functional.cross_entropy(logits, out.batch["phase"])
        return super().loss(out, generator) + self.options.msbot_weight * gate


class Aux(Method):
    """A second head must predict the actions from the image features alone; rollouts do not use it."""

    def extras(self, policy: SmallPolicy) -> Mapping[str, nn.Module]:
        head = registry.find(registry.HEADS, policy.config.head)
        return {"vision_head": head(policy.config, policy.vision_dim, policy.action_dim)}

    def loss(self, out: Forward, generator: torch.Generator) -> torch.Tensor:
        assert out.vision is not None
        values = out.policy.extras["vision_head"].loss(out.vision[:, -1], out.batch["action"], generator)
        alone = masked_mean(values, out.batch["action_pad_mask"])
        return super().loss(out, generator) + self.options.aux_weight * alone


class Mask(Method):
    """The whole proprioceptive history of random samples is hidden in training: all zeros, which is the dataset's
    mean (the middle of its range with normalization `bounds`), of a column that never moves the number 0 itself, as
    such a column is not normalised; rollouts see everything.
    """

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        proprio = batch["proprio"]
        shown = torch.rand(len(proprio), generator=generator) >= self.options.mask_probability
        return {**batch, "proprio": proprio * shown.to(proprio)[:, None, None]}


class DropoutNoise(Method):
    """Single entries of proprioception are dropped and all of them disturbed in training.

    Noise is in units of the normalised signal, in a column that never moves in its own (see `Mask`); a dropped entry
    is zero, the mean (or the middle), at all steps of the history.
    """

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        proprio = batch["proprio"]
        noise = torch.randn(proprio.shape, generator=generator).to(proprio)
        kept = torch.rand((len(proprio), 1, proprio.shape[-1]), generator=generator) >= self.options.dropout
        return {**batch, "proprio": (proprio + self.options.noise * noise) * kept.to(proprio)}


class Keyframe(Method):
    """Samples whose present step lies within `keyframe_radius` steps of a change point weigh `keyframe_weight`."""

    needs_change_points = True

    def loss(self, out: Forward, generator: torch.Generator) -> torch.Tensor:
        near = out.batch["change_distance"] <= self.options.keyframe_radius
        weight = torch.where(near, self.options.keyframe_weight, 1.0)[:, None] * out.batch["action_pad_mask"]
        return (out.loss * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def losses_alone(out: Forward, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss from vision alone and from proprioception alone: through the same fusion and head, with the other
    branch's features at zero, which after their ReLU means that it saw nothing.
    """
    assert out.vision is not None and out.proprio is not None
    found, drawn = [], generator.get_state()
    for pair in ((out.vision, torch.zeros_like(out.proprio)), (torch.zeros_like(out.vision), out.proprio)):
        generator.set_state(drawn)  # what is compared has the same noise
        values = out.policy.head.loss(out.policy.embed(*pair), out.batch["action"], generator)
        found.append(masked_mean(values, out.batch["action_pad_mask"]))
    return found[0], found[1]


TASKS = 3


class GradNorm(Method):
    """Losses of each modality alone, weighted so that they learn equally fast (Chen et al., 2018).

    w_i moves against the sign of ‖w_i ∇L_i‖ − mean_j ‖w_j ∇L_j‖ · r_i^α, r_i the relative inverse training rate. The
    tasks are the fused prediction, vision alone and proprioception alone, all through the same fusion and head, whose
    first layer is the shared one of the paper.
    """

    heads = ("mlp", "diffusion")

    def extras(self, policy: SmallPolicy) -> Mapping[str, nn.Module]:
        kept = nn.Module()  # of buffers, so that a resumed run goes on with them
        kept.register_buffer("weight", torch.ones(TASKS))
        kept.register_buffer("first", torch.zeros(TASKS))  # losses of the first step
        return {"task_weights": kept}

    def loss(self, out: Forward, generator: torch.Generator) -> torch.Tensor:
        fused = super().loss(out, generator)
        tasks = torch.stack([fused, *losses_alone(out, generator)])
        state = out.policy.extras["task_weights"]
        if not bool(state.first.any()):
            state.first.copy_(tasks.detach())
        shared = out.policy.head.layers[0].weight
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


class OgmGe(Method):
    """The gradients of the branch that does better alone are held back (Peng et al., 2022).

    k = 1 − tanh(α · ratio) for the better branch (ratio > 1), 1 for the other; noise with the gradient's own std.
    Their score is the probability of the right class; for regression the inverse loss of each branch alone takes its
    place. Under AdamW a factor that stays the same cancels: what acts is how it changes from step to step, and the
    noise.
    """

    heads = ("mlp", "diffusion")

    @torch.no_grad()
    def after_backward(self, out: Forward, generator: torch.Generator) -> None:
        vision, proprio = losses_alone(out, generator)
        ratio = {"vision": proprio / vision, "proprio": vision / proprio}
        for name, branch in out.policy.branches.items():
            if not bool(ratio[name] > 1):
                continue
            factor = 1 - torch.tanh(self.options.ogm_alpha * ratio[name])
            for parameter in branch.parameters():
                if parameter.grad is None:
                    continue
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.grad)
                spread = parameter.grad.std(correction=0)
                parameter.grad.mul_(factor).add_(noise * spread)
