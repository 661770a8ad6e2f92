"""λ on the update of some parameters, whatever the optimizer (M6): what a step did to them is scaled after it.

Under Adam a constant factor on the gradient cancels, so λ multiplies the step itself: p ← p₀ + λ·(p₁ − p₀), where p₀ is
the parameter before and p₁ after the optimizer's own step. The optimizer, its groups, its state and its learning-rate
schedule stay as they are, so checkpoints and schedulers do not notice; it holds for fused, foreach and foreign
optimizers, and for single columns of a weight.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

Target = tuple[torch.Tensor, Sequence[slice] | None]
"""A parameter, and the columns of it that are meant (None: all of it)."""


def unscaled_decay(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether a step subtracts lr·weight_decay·p from the parameter itself, so that λ can leave it out.

    So do AdamW, Adafactor, Muon, other optimizers with `decoupled_weight_decay`, and SGD without momentum. Elsewhere
    the decay is a summand of the gradient, is normalised with it, and is scaled with the update.
    """
    if "decoupled_weight_decay" in group:
        return bool(group["decoupled_weight_decay"])
    if isinstance(optimizer, torch.optim.SGD):
        return group["momentum"] == 0
    if isinstance(optimizer, (torch.optim.Adafactor, torch.optim.Muon)):
        return True
    return "AdamW" in type(optimizer).__name__


class ScaledSteps:
    """Hooks on one optimizer's steps.

    Args:
        optimizer: any `torch.optim.Optimizer`; it is not kept alive.
        targets: what λ acts on, as far as the optimizer trains it.
        decoupled: overrides `unscaled_decay`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, targets: Sequence[Target], decoupled: bool | None = None):
        self._targets, self._decoupled = targets, decoupled
        self._optimizer = weakref.ref(optimizer)
        self._lam = 1.0
        self._depth, self._closure = 0, False  # of steps within the step that is taken; whether it has a closure
        self._before: list[tuple[torch.Tensor, Any, torch.Tensor, float | None]] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._scale),
        ]

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        return self._optimizer()

    def begin(self, lam: float) -> None:
        """λ of the next step, or of the step whose closure calls this; it acts in one step alone."""
        self._lam = lam
        if not self._closure:
            self._depth = 0  # a step that raised did not come to its end

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _remember(self, optimizer: torch.optim.Optimizer, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        self._depth += 1
        if self._depth > 1:  # a class's step calls its parent's step, which has these hooks too
            return
        self._closure = named.get("closure") is not None or any(value is not None for value in given[1:])
        self._before = []
        if self._lam == 1 and not self._closure:
            return
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for parameter, columns in self._targets:
            group = group_of.get(id(parameter))
            if group is None or (parameter.grad is None and not self._closure):  # the optimizer passes over it
                continue
            decoupled = unscaled_decay(optimizer, group) if self._decoupled is None else self._decoupled
            decay = group["lr"] * group["weight_decay"] if decoupled and group.get("weight_decay") else None
            for part in [...] if columns is None else [(slice(None), c) for c in columns]:
                self._before.append((parameter, part, parameter.detach()[part].clone(), decay))

    @torch.no_grad()
    def _scale(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        before, lam = self._before, self._lam
        self._before, self._lam, self._closure = [], 1.0, False
        if lam == 1 or not before:
            return
        starts, moved = [], []
        for parameter, part, value, decay in before:
            region = parameter.detach()[part]  # an optimizer may give a parameter other storage
            start = value if decay is None else value * (1 - decay)
            # a fused kernel that finds infinite gradients moves nothing and decays nothing; nor does a step whose
            # closure leaves a parameter without a gradient
            may_skip = hasattr(optimizer, "found_inf") or parameter.grad is None
            starts.append(torch.where(region == value, value, start) if may_skip else start)
            moved.append(region)
        torch._foreach_lerp_(moved, starts, 1 - lam)
