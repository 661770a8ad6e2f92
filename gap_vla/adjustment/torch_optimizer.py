"""λ on the update of some parameters, whatever the optimizer (M6): what a step did to them is scaled after it.

Under Adam a constant factor on the gradient cancels, so λ multiplies the step itself: p ← p₀ + λ·(p₁ − p₀), where p₀ is
the parameter before and p₁ after the optimizer's own step. The optimizer, its groups, its state and its learning-rate
schedule stay as they are, so checkpoints and schedulers do not notice; it holds for fused, foreach and foreign
optimizers, and for single columns of a weight.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gap_vla.adjustment.schedule import AdjustmentError
from gap_vla.core.foreign import shown

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


def _has_closure(given: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether a step with these arguments, of which the first is the optimizer, computes its gradients itself."""
    return named.get("closure") is not None or any(value is not None for value in given[1:])


def _frame_of_step() -> types.FrameType | None:
    """The frame of the innermost step that this is called in."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != torch.optim.Optimizer.__module__:
        frame = frame.f_back
    return frame


class ScaledUpdates:
    """Hooks on one optimizer's steps; they keep it no longer than others do.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        targets: parameters, each with the columns that are meant (None: all of it).
        finished: called after every step.
        decoupled: overrides `unscaled_decay`.

    Attributes:
        update: λ of the step that is taken; looked at after it, for a closure may set it.
        over: whether a step was taken with it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        targets: Sequence[tuple[torch.Tensor, Columns]],
        finished: Callable[[], None],
        decoupled: bool | None = None,
    ):
        self._targets, self._finished, self._decoupled = targets, finished, decoupled
        self.update, self.over = 1.0, False
        self.optimizer = weakref.ref(optimizer)
        self._frame: types.FrameType | None = None  # of the step that is taken, the outermost one
        self._before: list[tuple[torch.Tensor, Any, torch.Tensor, Any]] = []
        self.handles = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._scale),
        ]
        hooks: Any = optimizer._optimizer_step_post_hooks
        hooks.move_to_end(self.handles[1].id, last=False)  # others', as one that averages the weights, come after it

    @property
    def stepping(self) -> bool:
        """Whether this is called in a step; what a step calls, as an optimizer that it wraps, is part of it."""
        frame = sys._getframe() if self._frame else None
        while frame not in (None, self._frame):
            frame = frame.f_back
        return frame is not None

    def _remember(self, optimizer: torch.optim.Optimizer, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        if self.stepping:  # its class's `step` calls that of its parent, which has these hooks too
            return
        self._before = []
        self._frame = _frame_of_step()  # no flag: a step that raises leaves it, and does not come to `_scale`
        closure = _has_closure(given, named)
        if self.update == 1 and not closure:
            return
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for parameter, columns in self._targets:
            group = group_of.get(id(parameter))
            if group is None or (parameter.grad is None and not closure):  # the optimizer passes over it
                continue
            decay = None
            decoupled = unscaled_decay(optimizer, group) if self._decoupled is None else self._decoupled
            if decoupled and group.get("weight_decay"):
                if group["lr"] is None:
                    found = f"{type(optimizer).__name__} has no lr of its own, by which its weight decay is known"
                    raise AdjustmentError(f"{found}; give it one, or weight_decay=0")
                decay = group["lr"] * group["weight_decay"]
            for c in [...] if columns is None else [(slice(None), c) for c in columns]:
                self._before.append((parameter, c, parameter.detach()[c].clone(), decay))

    @torch.no_grad()
    def _scale(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if _frame_of_step() is not self._frame:
            return
        starts, moved, lam = [], [], self.update
        for parameter, part, before, decay in self._before:
            if lam == 1:
                continue
            region = parameter.detach()[part]  # not that of before the step, which may have given it other storage
            start = before if decay is None else before * (1 - decay)
            # a gradient scaler that gives up inside a fused kernel moves nothing, and decays nothing; so does a step
            # after whose closure there is no gradient, if it was not the step that cleared it
            may_skip = hasattr(optimizer, "found_inf") or parameter.grad is None
            starts.append(torch.where(region == before, before, start) if may_skip else start)
            moved.append(region)
        if starts:
            torch._foreach_lerp_(moved, starts, 1 - lam)
        self._before, self._frame, self.over = [], None, True
        self._finished()


_ATTACHED: weakref.WeakSet[OptimizerWatch] = weakref.WeakSet()  # what all optimizers know shall not keep a policy


@functools.cache
def _watch_over_all_optimizers() -> None:
    """One hook for all, as those on what modules are given, and for good: one that went with its policy would go while
    an optimizer walks over its hooks."""

    def refuse(optimizer: torch.optim.Optimizer, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        for watch in list(_ATTACHED):
            watch.refuse_unwatched(optimizer, _has_closure(given, named))

    def shares(_: nn.Module, __: str, given: Any) -> None:
        parts = {id(p) for p in (given.parameters() if isinstance(given, nn.Module) else [given])}
        for watch in list(_ATTACHED):
            watch.shared |= any(id(p) in parts for p in watch.parameters.values())

    register_optimizer_step_pre_hook(refuse)
    register_module_parameter_registration_hook(shares)
    register_module_module_registration_hook(shares)


def refuse_attached(parameters: Mapping[str, torch.Tensor]) -> None:
    """Raises AdjustmentError: GAP is attached to one of these already, by whatever name."""
    held = {id(p) for watch in list(_ATTACHED) for p in watch.parameters.values()}
    if twice := [name for name, p in parameters.items() if id(p) in held]:
        raise AdjustmentError(
            f"GAP is attached to {twice[0]} already, and would act twice: call detach() of that one first"
        )


class OptimizerWatch:
    """The optimizers that train a policy's adjusted parameters: λ, `update`, acts on their steps, and on those alone.

    Attributes:
        shared: whether a module was given one of these since that was set to False, as one that is to share it is.

    Args:
        parameters, columns: by full name; columns of those of which a part is adjusted.
        finished: called after every watched step.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        columns: Mapping[str, Columns],
        finished: Callable[[], None],
    ):
        self.parameters, self._columns, self._finished = parameters, columns, finished
        self.update = 1.0
        self.shared = True
        self._watched: dict[int, weakref.ref[torch.optim.Optimizer]] = {}  # by a parameter's id
        self._told: weakref.WeakKeyDictionary[torch.optim.Optimizer, bool | None] = weakref.WeakKeyDictionary()
        self._updates: list[ScaledUpdates] = []
        _ATTACHED.add(self)
        _watch_over_all_optimizers()

    def begin(self, update: float) -> None:
        """λ of the next steps."""
        self.update = update
        for scaled in self._updates:
            scaled.update, scaled.over = update, False

    def end(self) -> None:
        """Further steps of an optimizer that has taken one since `begin` are its own."""
        self._updates = [scaled for scaled in self._updates if scaled.optimizer() is not None]
        for scaled in self._updates:
            scaled.update = 1.0 if scaled.over else scaled.update
        if all(scaled.over for scaled in self._updates):
            self.update = 1.0

    def watch(self, optimizer: torch.optim.Optimizer, decoupled: bool | None) -> None:
        """See `Adjustment.watch`."""
        if not (decoupled is None or isinstance(decoupled, bool)):
            raise AdjustmentError(f"decoupled is {shown(decoupled)}; give True or False, or leave it out")
        held = {id(p) for group in getattr(optimizer, "param_groups", ()) for p in group["params"]}
        mine = {name: p for name, p in self.parameters.items() if id(p) in held}
        if held and not mine:
            return
        hooked = hasattr(optimizer, "_optimizer_step_pre_hooks") and getattr(type(optimizer).step, "hooked", False)
        if not hooked:
            raise AdjustmentError(
                f"a {type(optimizer).__name__} takes no hooks on its steps; watch the torch.optim.Optimizer in it "
                "(of a wrapper: optimizer.optimizer)"
            )
        if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
            raise AdjustmentError(
                f"{type(optimizer).__name__} keeps weights of its own (schedule-free), and would take back what "
                "λ does; choose another optimizer, or lam=1, which needs none watched"
            )
        new = {name: p for name, p in mine.items() if self.watcher(p) is not optimizer}
        if twice := [name for name, p in new.items() if self.watcher(p)]:
            raise AdjustmentError(f"an optimizer that trains {twice[0]} is watched already; λ would act twice")
        told = self._told.setdefault(optimizer, decoupled)
        if decoupled not in (None, told):
            raise AdjustmentError(f"this optimizer is watched already, with decoupled={told}; say it the first time")
        if not new:
            return
        targets = [(p, self._columns.get(name)) for name, p in new.items()]
        scaled = ScaledUpdates(optimizer, targets, self._finished, told)
        scaled.update = self.update
        self._watched |= {id(p): weakref.ref(optimizer) for p in new.values()}
        self._updates.append(scaled)

    def watcher(self, parameter: torch.Tensor) -> torch.optim.Optimizer | None:
        """The watched optimizer that trains this parameter, while it is in use."""
        return found() if (found := self._watched.get(id(parameter))) is not None else None

    def refuse_unwatched(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Before any optimizer's step: raises AdjustmentError if λ is to act and this one is not watched."""
        if self.update == 1 or any(scaled.stepping for scaled in self._updates):
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"] if closure or p.grad is not None}
        for name, parameter in self.parameters.items():
            if id(parameter) in held and self.watcher(parameter) is not optimizer:
                raise AdjustmentError(
                    f"an optimizer that trains {name} takes a step and is not watched, so λ would not act on it: call "
                    "gap.watch(optimizer) for this one, or gap.detach() to train without GAP"
                )

    def remove(self) -> None:
        for scaled in self._updates:
            for handle in scaled.handles:
                handle.remove()
        _ATTACHED.discard(self)
        self._watched.clear()
        self._updates.clear()
