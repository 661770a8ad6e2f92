"""GAP for any PyTorch policy (M6 to M8): hooks on the proprioceptive submodule, and λ on the steps of its parameters.

    gap = attach(policy, "model.state_proj", AdjustmentSchedule(lam=0.3, rho="current"), total_steps=10_000)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=3e-4))
    for step, batch in enumerate(batches):
        with gap.adjusting(batch["rho"], step):      # float[B] or float[B, W], from the dataset's rho column
            loss = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gap.detach()                                     # the policy is as it was

The forward pass, the parameters, their names and the optimizer's groups stay as they are. docs/ANY_POLICY.md names the
submodule of common policies.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import operator
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._pytree import tree_flatten, tree_unflatten

from gap_vla.adjustment.schedule import AdjustmentError, AdjustmentSchedule
from gap_vla.adjustment.torch_gradients import in_backward, scale_columns, scale_gradient
from gap_vla.adjustment.torch_optimizer import ScaledUpdates
from gap_vla.adjustment.torch_places import (
    Place,
    factor_of_columns,
    factor_of_output,
    find_columns,
    find_places,
    require_no_gradient,
)
from gap_vla.core.foreign import whole
from gap_vla.core.typed_config import STEPS

__all__ = ["Adjustment", "attach", "attach_columns", "scale_gradient"]


class _Hook:
    """What a place's forward pass calls. A copy of the policy, and a file that all of it is saved to, have none."""

    def __init__(self, adjustment: Adjustment, place: Place):
        self.adjustment, self.place, self.called = adjustment, place, False

    def __call__(self, module: nn.Module, inputs: Any, keywords: Any, output: Any) -> Any:
        return self.adjustment._on_output(self, module, inputs, keywords, output)

    def __deepcopy__(self, _: Any) -> Any:
        return _nothing

    def __reduce__(self) -> Any:
        return _no_hook, ()


def _nothing(*_: Any) -> None:
    """A hook without effect."""


def _no_hook() -> Any:
    return _nothing


_ATTACHED: weakref.WeakSet[Adjustment] = weakref.WeakSet()  # what all optimizers know shall not keep a policy


@functools.cache
def _watch_over_all_optimizers() -> None:
    """One hook for all and for good: one that went with its policy would go while an optimizer walks over its hooks."""

    def refuse(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for adjustment in list(_ATTACHED):
            adjustment._refuse_unwatched(optimizer)

    register_optimizer_step_pre_hook(refuse)


class Adjustment:
    """GAP attached to a policy; made by `attach` or `attach_columns`. As a context manager it detaches on leaving.

    Attributes:
        parameters: the adjusted parameters by their full name.
    """

    def __init__(self, places: Sequence[Place], schedule: AdjustmentSchedule, total_steps: int):
        self.schedule, self.total_steps = schedule, whole("total_steps", total_steps, 1, STEPS, AdjustmentError)
        self.parameters = {name: p for place in places for name, p in place.parameters().items()}
        self._columns = {f"{place.name}.weight": place.columns for place in places if place.columns is not None}
        self._sample: torch.Tensor | None = None  # float32[B, W], or [] for all
        self._identity = False
        self._plain = False
        self._update = 1.0
        self._watched: dict[int, weakref.ref[torch.optim.Optimizer]] = {}  # by a parameter's id
        self._updates: list[ScaledUpdates] = []
        self._scaled = False  # whether the last pass with a graph was adjusted
        self._recomputed = False
        # factors of passes without a graph: those that reentrant checkpointing will recompute (or validation)
        self._unrecorded: collections.deque[torch.Tensor] = collections.deque(maxlen=64)
        self._differs = schedule.rho == "step" and schedule.mode in ("sample", "sample_lambda")
        self._hooks = [_Hook(self, place) for place in places]
        self._handles: list[Any] = [
            hook.place.module.register_forward_hook(hook, with_kwargs=True) for hook in self._hooks
        ]
        _ATTACHED.add(self)
        _watch_over_all_optimizers()

    def __repr__(self) -> str:
        read = {name: sum(c.stop - c.start for c in columns) for name, columns in self._columns.items()}
        count = sum(len(p) * read[name] if name in read else p.numel() for name, p in self.parameters.items())
        listed = "".join(
            f"\n  {n} {tuple(p.shape)}"
            + (f" columns {', '.join(f'{c.start}:{c.stop}' for c in self._columns[n])}" if n in self._columns else "")
            for n, p in self.parameters.items()
        )
        return f"GAP ({self.schedule.mode}, lam {self.schedule.lam}) on {count:,} values:{listed}"

    def __enter__(self) -> Adjustment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @contextlib.contextmanager
    def adjusting(
        self, rho: Float[torch.Tensor, "b *w"] | Float[np.ndarray, "b *w"] | None, step: int
    ) -> Iterator[None]:
        """Within this context, forward passes of the policy carry the factors of a training step.

        The backward pass may come later, also after other forward passes with another ρ.

        Args:
            rho: transition probability of each sample, or of each sample and window step ([1, W] is one sample, also
                where the output has W rows, which are then taken for its steps). None
                where none is needed: mode `fixed` or `none`, or after the schedule's window.
            step: 0-based training step, which decides whether GAP acts.

        Raises:
            AdjustmentError: ρ is needed and absent, lies outside [0, 1], or fits no output of the submodule; λ is to
                act and no optimizer is watched; the policy was called and did not call one of the submodules.
        """
        try:
            step = whole("the training step", operator.index(step), 0, STEPS, AdjustmentError)
        except TypeError:
            raise AdjustmentError(f"the training step is {step!r:.60}; count whole steps from 0") from None
        active = self.schedule.active(step, self.total_steps)
        if rho is None and active and self.schedule.needs_rho:
            raise AdjustmentError(
                f"training step {step} has no rho, which mode {self.schedule.mode!r} needs; annotate the dataset and "
                "hand its rho column on to the batch"
            )
        values = rho.detach().cpu() if isinstance(rho, torch.Tensor) else rho
        if isinstance(values, torch.Tensor) and values.is_floating_point():
            values = values.float()  # numpy has no bfloat16
        values = np.zeros((1, 1)) if values is None else np.asarray(values)
        if not values.size:
            raise AdjustmentError(f"rho of shape {values.shape} at training step {step} is empty")
        if not values.ndim or values.dtype.kind not in "biuf" or np.ma.is_masked(rho):
            what = "masked" if np.ma.is_masked(rho) else f"{values.dtype}{list(values.shape)}"
            raise AdjustmentError(f"rho at training step {step} is {what}; give numbers of shape [B] or [B, W]")
        values = values.astype(np.float32).reshape(len(values), -1)
        factors = self.schedule.factors(values, step, self.total_steps)
        missing = [name for name, p in self.parameters.items() if not self._watcher(p)]
        if factors.update != 1 and missing:
            raise AdjustmentError(
                f"lam = {self.schedule.lam} acts on the optimizer's steps, and none that trains {missing[0]} is "
                "watched: call gap.watch(optimizer) first, or choose lam=1"
            )
        # M7's factor of the summed gradient is one number, so it may as well act on every sample's part of the sum
        sample = torch.from_numpy(factors.sample * factors.gradient)
        sample = sample.to(next(iter(self.parameters.values())).device, non_blocking=True)
        before = self._sample, self._identity
        self._sample = sample[0, 0] if rho is None else sample
        self._identity = not active
        self._update = float(factors.update)
        try:
            yield
        finally:
            self._sample, self._identity = before
        if passed := [hook.place.name for hook in self._hooks if not hook.called]:
            raise AdjustmentError(
                f"no forward pass went through {', '.join(passed)} while rho was set, so GAP adjusts nothing there. "
                "Is another submodule used? A compiled policy must be compiled after GAP is attached"
            )

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Within this context gradients are those of the policy without GAP, and need no ρ. The optimizer's next step
        is still scaled by the λ of the last `adjusting`."""
        before, self._plain = self._plain, True
        try:
            yield
        finally:
            self._plain = before

    def _on_output(self, hook: _Hook, module: nn.Module, inputs: Any, keywords: Any, output: Any) -> Any:
        place = hook.place
        if self._sample is not None:
            hook.called = True
        if self._plain:
            return None
        if not torch.is_grad_enabled():
            if self._sample is not None and module.training:
                self._remember(self._sample)
            return None
        sample, identity = self._sample, self._identity
        if sample is None:
            sample, identity = self._sample_outside(place, module), False
            if sample is None:
                return None
        else:
            self._scaled = not identity
        if place.columns is not None:
            assert isinstance(module, nn.Linear)
            x = inputs[0] if inputs else keywords["input"]
            factor = factor_of_columns(place, sample, x, self._differs)
            return None if identity else scale_columns(output, x, module, factor)
        if not identity and not torch.compiler.is_compiling():
            require_no_gradient(place.name, tree_flatten((inputs, keywords))[0])
        leaves, structure = tree_flatten(output)
        if not identity and not any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
            if any(p.requires_grad for p in module.parameters()):
                raise AdjustmentError(
                    f"submodule {place.name!r} gives {type(output).__name__}, in which there is no tensor with a "
                    "gradient to adjust; attach to a part of it that gives tensors (in tuples, lists or dictionaries)"
                )
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                factor = factor_of_output(place.name, sample, leaf.shape, self._differs)
                leaves[i] = leaf if identity else scale_gradient(leaf, factor)
        return None if identity else tree_unflatten(leaves, structure)

    def _remember(self, sample: torch.Tensor) -> None:
        if self._recomputed:
            self._unrecorded.clear()
            self._recomputed = False
        self._unrecorded.append(sample)

    def _sample_outside(self, place: Place, module: nn.Module) -> torch.Tensor | None:
        """The factors of a forward pass with a graph for which no ρ is set: recomputation, inference, or a mistake."""
        if in_backward():
            if any(sample is not self._unrecorded[0] for sample in self._unrecorded):
                raise AdjustmentError(
                    "reentrant activation checkpointing recomputes one of several forward passes, and GAP cannot tell "
                    "whose rho is meant; pass use_reentrant=False, or go backward after each forward pass"
                )
            if self._unrecorded:
                self._recomputed = True
                return self._unrecorded[0]
            # not reentrant: the first pass's nodes hold its factors; the same tensors must be saved once more
            return torch.ones(()) if place.columns is not None and self._scaled else None
        if module.training and any(p.requires_grad for p in module.parameters()):
            raise AdjustmentError(
                f"the policy is in training mode and went through {place.name!r} without rho: wrap the forward pass in "
                "`with gap.adjusting(batch['rho'], step):`, or in `with gap.plain():` for gradients without GAP"
            )
        return None

    def watch(self, optimizer: torch.optim.Optimizer, *, decoupled: bool | None = None) -> torch.optim.Optimizer:
        """Applies λ (M6) to this optimizer's steps on the adjusted parameters, and returns it.

        Call it for each optimizer that trains some of them, at any time, also after loading its state. Decoupled
        weight decay is not scaled; one that is added to the gradient (Adam, SGD with momentum) is part of the update.

        Args:
            optimizer: any `torch.optim.Optimizer`. Its groups, state and learning rates are left alone.
            decoupled: whether it subtracts lr·weight_decay·p from the parameter itself. Known of torch's optimizers
                and of every class with AdamW in its name; say it of others.

        Raises:
            AdjustmentError: the optimizer holds none of the adjusted parameters, or one that trains them is watched
                already; or GAP is detached.
        """
        if not self._handles:
            raise AdjustmentError("GAP is detached from this policy; attach it again before watching an optimizer")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine = {name: p for name, p in self.parameters.items() if id(p) in held}
        if not mine:
            raise AdjustmentError(
                f"the optimizer does not train {next(iter(self.parameters))}; watch the one that does"
            )
        twice = [name for name, p in mine.items() if self._watcher(p)]
        if twice:
            raise AdjustmentError(f"an optimizer that trains {twice[0]} is watched already; λ would act twice")
        targets = [(p, self._columns.get(name)) for name, p in mine.items()]
        scaled = ScaledUpdates(optimizer, targets, lambda: self._update, self._unrecorded.clear, decoupled)
        self._watched |= {id(p): weakref.ref(optimizer) for p in mine.values()}
        self._handles += scaled.handles
        self._updates.append(scaled)
        return optimizer

    def _watcher(self, parameter: torch.Tensor) -> torch.optim.Optimizer | None:
        """The watched optimizer that trains this parameter, while it is in use."""
        return found() if (found := self._watched.get(id(parameter))) is not None else None

    def _refuse_unwatched(self, optimizer: torch.optim.Optimizer) -> None:
        """Before any optimizer's step: raises AdjustmentError if λ is to act and this one is not watched."""
        if self._update == 1 or any(scaled.stepping for scaled in self._updates):
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
        for name, parameter in self.parameters.items():
            if id(parameter) in held and self._watcher(parameter) is not optimizer:
                raise AdjustmentError(
                    f"an optimizer that trains {name} takes a step and is not watched, so λ would not act on it: call "
                    "gap.watch(optimizer) for this one, or gap.detach() to train without GAP"
                )

    def detach(self) -> None:
        """Removes every hook; the policy and the optimizer's steps are as they were."""
        for handle in self._handles:
            handle.remove()
        _ATTACHED.discard(self)
        self._handles.clear()
        self._watched.clear()
        self._updates.clear()
        for hook in self._hooks:
            hook.called = False  # from here on `adjusting` would adjust nothing, and says so


def attach(
    module: nn.Module, submodule_name: str | Sequence[str], schedule: AdjustmentSchedule, *, total_steps: int
) -> Adjustment:
    """Attaches GAP to the part of a policy that encodes proprioception.

    Args:
        module: the policy, before it is compiled or wrapped for several processes (or its wrapped module).
        submodule_name: its proprioceptive encoder, or several, as in `module.named_modules()`: `"model.state_proj"`.
            The first axis of its output (tensors in tuples and dicts too) must be the batch; every parameter in it is
            adjusted, nothing else: what it reads must have no gradient of its own.
        schedule: when and how strongly. With one loss per window use `rho="current"`.
        total_steps: length of the training run; the window of the schedule is a fraction of it.

    Raises:
        AdjustmentError: no such submodule, nothing trainable in it, parameters that are used outside it too, one
            submodule in another, or GAP is attached to it already.
    """
    names = (submodule_name,) if isinstance(submodule_name, str) else submodule_name
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise AdjustmentError(f"submodule_name is {submodule_name!r:.60}; give a name, or a list of names")
    return _attached(module, find_places(module, names), schedule, total_steps)


def _attached(module: nn.Module, places: Sequence[Place], schedule: AdjustmentSchedule, total_steps: int) -> Adjustment:
    """Raises AdjustmentError: GAP is attached to one of the parameters already."""
    hooks = [hook for part in module.modules() for hook in part._forward_hooks.values() if isinstance(hook, _Hook)]
    held = {id(p) for hook in hooks for p in hook.place.parameters().values()}
    for place in places:
        if twice := [name for name, p in place.parameters().items() if id(p) in held]:
            raise AdjustmentError(
                f"GAP is attached to {twice[0]} already, and would act twice: call detach() of that one first"
            )
    return Adjustment(places, schedule, total_steps)


def attach_columns(
    module: nn.Module,
    columns: Mapping[str, slice | Sequence[slice]],
    schedule: AdjustmentSchedule,
    *,
    total_steps: int,
) -> Adjustment:
    """Attaches GAP to a policy that concatenates the raw state with other features, and has no encoder for it.

    The first parameters that read the state are then columns of the weights of linear layers. Their gradient becomes
    Σ_b (1 - ρ_b)·g_b over samples b (M6) and λ acts on their updates; the other columns, the bias and every other
    parameter keep their gradients. Whatever lies between state and layer must leave its values in their places.

    Args:
        module: the policy.
        columns: for every linear layer that reads the state, by name: the slice of its input where the state lies, or
            one slice for each step of the window, in order (`rho="step"` gives each its own ρ).
        schedule, total_steps: as in `attach`.

    Raises:
        AdjustmentError: no such layer, another kind of layer, or columns that it does not have.

    Example:
        >>> policy = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 1))  # of 3 image features and 2 states
        >>> attach_columns(policy, {"0": slice(3, 5)}, AdjustmentSchedule(lam=0.3), total_steps=100)
        GAP (sample, lam 0.3) on 4 values:
          0.weight (2, 5) columns 3:5
    """
    return _attached(module, find_columns(module, columns), schedule, total_steps)
