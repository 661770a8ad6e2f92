"""λ on the update of some parameters, whatever the optimizer (M6): what a step did to them is scaled after it.

Under Adam a constant factor on the gradient cancels, so λ multiplies the step itself: p ← p₀ + λ·(p₁ − p₀), where p₀ is
the parameter before and p₁ after the optimizer's own step. The optimizer, its groups, its state and its learning-rate
schedule stay as they are, so checkpoints and schedulers do not notice; it holds for fused, foreach and foreign
optimizers, and for single columns of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Columns = Sequence[slice] | None


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


class ScaledUpdates:
    """Hooks on one optimizer's steps; they keep it no longer than others do.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        targets: parameters, each with the columns that are meant (None: all of it).
        update: gives λ of the step that is taken; asked after it, for a closure may set it.
        finished: called after every step.
        decoupled: overrides `unscaled_decay`.

    Attributes:
        stepping: whether a step has begun and is not over; what it calls, as an optimizer that it wraps, is part of it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        targets: Sequence[tuple[torch.Tensor, Columns]],
        update: Callable[[], float],
        finished: Callable[[], None],
        decoupled: bool | None = None,
    ):
        self._targets = targets
        self._update, self._finished, self._decoupled = update, finished, decoupled
        self.stepping = False
        self._before: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]] = []
        self.handles = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._scale),
        ]

    def _remember(self, optimizer: torch.optim.Optimizer, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        self._before = []
        self.stepping = True
        closure = named.get("closure") is not None or any(value is not None for value in given[1:])
        if self._update() == 1 and not closure:
            return
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for parameter, columns in self._targets:
            group = group_of.get(id(parameter))
            if group is None or (parameter.grad is None and not closure):  # the optimizer passes over it
                continue
            decay = None
            decoupled = unscaled_decay(optimizer, group) if self._decoupled is None else self._decoupled
            if decoupled and group.get("weight_decay"):
                decay = group["lr"] * group["weight_decay"]
            regions = [parameter.detach()] if columns is None else [parameter.detach()[:, c] for c in columns]
            self._before += [(parameter, region, region.clone(), decay) for region in regions]

    @torch.no_grad()
    def _scale(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # a gradient scaler that gives up inside a fused kernel moves nothing, and decays nothing
        may_skip = hasattr(optimizer, "found_inf")
        starts, moved, lam = [], [], self._update()
        for parameter, region, before, decay in self._before:
            if lam == 1 or parameter.grad is None:
                continue
            start = before if decay is None else before * (1 - decay)
            starts.append(torch.where(region == before, before, start) if may_skip else start)
            moved.append(region)
        if starts:
            torch._foreach_lerp_(moved, starts, 1 - lam)
        self._before = []
        self.stepping = False
        self._finished()
