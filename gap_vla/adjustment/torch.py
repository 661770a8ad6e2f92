"""GAP for any PyTorch policy (M6 to M8): hooks on the proprioceptive submodule, and λ on the steps of its parameters.

    gap = attach(policy, "model.state_proj", AdjustmentSchedule(lam=0.3, rho="current"), total_steps=10_000)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=3e-4))
    for step, batch in enumerate(batches):
        with gap.adjusting(batch["rho"], step):      # float[B] or float[B, W], from the dataset's rho column
            loss = policy(batch)
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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from gap_vla.adjustment.schedule import AdjustmentError, AdjustmentSchedule
from gap_vla.adjustment.torch_gradients import in_backward, scale_columns, scale_gradient
from gap_vla.adjustment.torch_optimizer import ScaledUpdates
from gap_vla.adjustment.torch_places import Place, factor_of_columns, factor_of_output, find_columns, find_places
from gap_vla.core.foreign import whole
from gap_vla.core.typed_config import STEPS

__all__ = ["Adjustment", "attach", "attach_columns", "scale_gradient"]


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
        self._called = False
        self._update = 1.0
        self._watched: set[int] = set()
        self._scaled = False  # whether the last pass with a graph was adjusted
        self._recomputed = False
        # factors of passes without a graph: those that reentrant checkpointing will recompute (or validation)
        self._unrecorded: collections.deque[torch.Tensor] = collections.deque(maxlen=64)
        self._differs = schedule.rho == "step" and schedule.mode in ("sample", "sample_lambda")
        self._handles: list[Any] = [
            place.module.register_forward_hook(functools.partial(self._on_output, place)) for place in places
        ]

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.parameters.values())
        listed = "".join(
            f"\n  {n} {tuple(p.shape)}"
            + (
                f" columns {', '.join(f'{c.start or 0}:{c.stop}' for c in self._columns[n])}"
                if n in self._columns
                else ""
            )
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
            rho: transition probability of each sample, or of each sample and window step. None where none is needed:
                mode `fixed` or `none`, or after the schedule's window.
            step: 0-based training step, which decides whether GAP acts.

        Raises:
            AdjustmentError: ρ is needed and absent, lies outside [0, 1], or fits no output of the submodule; λ is to
                act and no optimizer is watched; the policy was called and did not call the submodule.
        """
        active = self.schedule.active(step, self.total_steps)
        if rho is None and active and self.schedule.needs_rho:
            raise AdjustmentError(
                f"training step {step} has no rho, which mode {self.schedule.mode!r} needs; annotate the dataset and "
                "hand its rho column on to the batch"
            )
        values = rho.detach().float().cpu().numpy() if isinstance(rho, torch.Tensor) else rho
        values = np.zeros((1, 1)) if values is None else np.asarray(values)
        if not values.size:
            raise AdjustmentError(f"rho of shape {values.shape} at training step {step} is empty")
        values = values.astype(np.float32).reshape(len(values), -1)
        factors = self.schedule.factors(values, step, self.total_steps)
        missing = [name for name, p in self.parameters.items() if id(p) not in self._watched]
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
        if not self._called:
            raise AdjustmentError(
                f"no forward pass went through {', '.join(self.parameters)} while rho was set, so GAP adjusts nothing. "
                "Is another submodule used? A compiled policy must be compiled after GAP is attached"
            )

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Within this context gradients are those of the policy without GAP, and need no ρ."""
        before, self._plain = self._plain, True
        try:
            yield
        finally:
            self._plain = before

    def _on_output(self, place: Place, module: nn.Module, inputs: Any, output: Any) -> Any:
        self._called = True
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
            factor = factor_of_columns(place, sample, inputs[0], self._differs)
            return None if identity else scale_columns(output, inputs[0], module, factor)
        leaves, structure = tree_flatten(output)
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
                raise RuntimeError(
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
            AdjustmentError: the optimizer holds none of the adjusted parameters, or is watched already.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine = {name: p for name, p in self.parameters.items() if id(p) in held}
        if not mine:
            raise AdjustmentError(
                f"the optimizer does not train {next(iter(self.parameters))}; watch the one that does"
            )
        twice = [name for name, p in mine.items() if id(p) in self._watched]
        if twice:
            raise AdjustmentError(f"an optimizer that trains {twice[0]} is watched already; λ would act twice")
        targets = [(p, self._columns.get(name)) for name, p in mine.items()]
        scaled = ScaledUpdates(optimizer, targets, lambda: self._update, self._unrecorded.clear, decoupled)
        self._watched |= {id(p) for p in mine.values()}
        self._handles += scaled.handles
        return optimizer

    def detach(self) -> None:
        """Removes every hook; the policy and the optimizer's steps are as they were."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watched.clear()
        self._called = False  # from here on `adjusting` would adjust nothing, and says so


def attach(
    module: nn.Module, submodule_name: str | Sequence[str], schedule: AdjustmentSchedule, *, total_steps: int
) -> Adjustment:
    """Attaches GAP to the part of a policy that encodes proprioception.

    Args:
        module: the policy, before it is compiled or wrapped for several processes (or its wrapped module).
        submodule_name: its proprioceptive encoder, or several, as in `module.named_modules()`: `"model.state_proj"`.
            The first axis of its output (tensors in tuples and dicts too) must be the batch; every parameter in it is
            adjusted, nothing else.
        schedule: when and how strongly. With one loss per window use `rho="current"`.
        total_steps: length of the training run; the window of the schedule is a fraction of it.

    Raises:
        AdjustmentError: no such submodule, nothing trainable in it, or parameters that are used outside it too.
    """
    names = (submodule_name,) if isinstance(submodule_name, str) else tuple(submodule_name)
    return Adjustment(find_places(module, names), schedule, total_steps)


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
        GAP (sample, lam 0.3) on 10 values:
          0.weight (2, 5) columns 3:5
    """
    return Adjustment(find_columns(module, columns), schedule, total_steps)
