"""GAP for any PyTorch policy (M6 to M8): hooks on the proprioceptive submodule, and λ on the steps of its parameters.

    gap = attach(policy, "model.state_proj", AdjustmentSchedule(rho="current"), total_steps=10_000)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=3e-4))
    for step, batch in enumerate(batches):
        with gap.adjusting(batch["rho"], step):      # float[B] or float[B, W], from the dataset's rho column
            loss = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gap.detach()                                     # policy and optimizer are as they were

Without a schedule the branch is slower by a constant, and `gap.adjusting(None, step)` needs no ρ. With `rho="chunk"` ρ
is of the steps that the predicted actions are about, float[B, H], and the losses of the single actions pass through
`gap.scale_losses` before their mean is taken. The forward pass, the parameters, their names and the optimizer's groups
stay as they are; nothing beside this policy and this optimizer changes. docs/ANY_POLICY.md names common submodules.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.utils._pytree import tree_leaves

from gap_vla.adjustment.schedule import SLOWER, AdjustmentSchedule
from gap_vla.adjustment.torch_gradients import in_backward, scale_gradient, scale_losses
from gap_vla.adjustment.torch_optimizer import ScaledSteps
from gap_vla.adjustment.torch_places import Hook, Place, find_columns, find_places
from gap_vla.core.errors import ConfigError

__all__ = ["Adjustment", "attach", "attach_columns", "scale_gradient"]


class Adjustment:
    """GAP attached to a policy; made by `attach` or `attach_columns`. As a context manager it detaches on leaving.

    Attributes:
        parameters: the adjusted parameters by their full name.
        schedule: when and how strongly; another may be assigned, and acts from the next `adjusting` on.
        total_steps: length of the training run.
    """

    def __init__(self, places: Sequence[Place], schedule: AdjustmentSchedule, total_steps: int):
        self.schedule, self.total_steps = schedule, total_steps
        self.parameters = {name: p for place in places for name, p in place.parameters().items()}
        self._places = places
        self._columns = {f"{place.name}.weight": place.columns for place in places if place.columns is not None}
        self._start = {name: self._read(name).clone() for name in self.parameters}
        self._steps: list[ScaledSteps] = []
        self._inside = self._plain = False  # a context of `adjusting`, of `plain`
        self._sample: torch.Tensor | None = None  # the factors there, [B, W] or one number; None: gradients stay
        self._differs = False  # over the window
        self._scaled = False  # the last pass with a graph
        self._weight: torch.Tensor | None = None  # of the single actions' losses, for `scale_losses`; None: they stay
        self._weighed = False  # whether losses passed through that
        self._change: dict[str, torch.Tensor] = {}  # in a backward pass: of the adjusted parameters' gradients
        self._handles: list[Any] = []
        self._on_parameters: list[Any] = []
        for place in places:
            if place.columns is None:
                before = Hook(self._before_pass, place)
                self._handles.append(place.module.register_forward_pre_hook(before, with_kwargs=True))
            # first of all hooks: what others make of the output is no part of the place
            after = Hook(self._after_pass, place)
            self._handles.append(place.module.register_forward_hook(after, prepend=True, with_kwargs=True))

    def __repr__(self) -> str:
        lines = []
        for name, parameter in self.parameters.items():
            columns = ", ".join(f"{c.start}:{c.stop}" for c in self._columns.get(name, ()))
            lines.append(f"\n  {name} {tuple(parameter.shape)}" + (f" columns {columns}" if columns else ""))
        count = sum(values.numel() for values in self._start.values())
        return f"Adjustment ({self.schedule.mode}, lam {self.schedule.factor}) on {count:,} values:{''.join(lines)}"

    def _read(self, name: str) -> torch.Tensor:
        """The values of a parameter that are adjusted."""
        values, columns = self.parameters[name].detach(), self._columns.get(name)
        return values if columns is None else torch.cat([values[:, part] for part in columns], 1)

    def moved(self) -> float:
        """Distance of the adjusted values from where they were at `attach`; `window=0` gives that of plain training."""
        ways = [self._read(name) - start.to(self.parameters[name].device) for name, start in self._start.items()]
        return float(torch.stack([way.norm() for way in ways]).norm())

    def __reduce__(self) -> Any:  # a copy of what holds this, and a file of it, have None in its place
        return type(None), ()

    def __enter__(self) -> Adjustment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @contextlib.contextmanager
    def adjusting(
        self, rho: Float[torch.Tensor, "b *w"] | Float[np.ndarray, "b *w"] | None, step: int
    ) -> Iterator[None]:
        """Within this context, forward passes of the policy carry the factors of a training step.

        The backward pass may come later, also after other forward passes with another ρ. λ acts on the next step of
        each watched optimizer.

        Args:
            rho: transition probability of each sample, or of each sample and window step; with `rho="chunk"` or
                `"chunk_max"` of each predicted action, [B, H] or [B, W, H] (of one beyond the episode's end: 0). None
                where none is needed: mode `constant`, `fixed` or `none`, or after the schedule's window.
            step: 0-based training step, which decides whether GAP acts.

        Raises:
            ConfigError: ρ is needed and absent, or fits no output of the submodule; λ is to act and no optimizer is
                watched; no forward pass went through one of the submodules, or with `rho="chunk"` no losses through
                `scale_losses` (a step that is to leave it out says so: `with gap.adjusting(rho, step), gap.plain():`).
            EpisodeError: ρ is outside [0, 1].
        """
        for place in self._places:
            place.parameters()  # refuses those that were sharded since
        active = self.schedule.active(step, self.total_steps)
        if rho is None and active and self.schedule.needs_rho:
            raise ConfigError(
                f"training step {step} has no rho, which mode {self.schedule.mode!r} needs; annotate the dataset and "
                "hand its rho column on to the batch"
            )
        values: Any = np.zeros((1, 1)) if rho is None else rho
        if isinstance(rho, torch.Tensor):  # numpy has no bfloat16
            values = rho.float().numpy(force=True)
        factors = self.schedule.factors(np.asarray(values, np.float32), step, self.total_steps)
        lam = float(factors.update)
        if lam != 1:
            self._require_watched()
        for steps in self._steps:
            steps.begin(lam)
        # M7's factor of the summed gradient is one number, so it may as well act on every sample's part of the sum
        sample = torch.from_numpy(factors.sample * factors.gradient)
        sample = sample.to(next(iter(self.parameters.values())).device, non_blocking=True)
        before = self._inside, self._sample, self._weight, self._differs
        acting = (sample.flatten()[0] if rho is None else sample) if active else None
        per_action = self.schedule.per_action
        self._inside, self._sample, self._weight = True, acting, None
        if per_action:
            self._sample, self._weight = None, acting
        self._weighed = self._plain or not per_action
        self._change.clear()
        self._differs = self.schedule.rho != "current" and self.schedule.mode in ("sample", "sample_lambda")
        for place in self._places:
            place.passed = self._plain
        try:
            yield
        finally:
            self._inside, self._sample, self._weight, self._differs = before
        missed = [place.name for place in self._places if not place.passed]
        if active and missed and torch.is_grad_enabled():
            raise ConfigError(
                f"no forward pass with a gradient went through {', '.join(missed)} while rho was set, so GAP adjusts "
                "nothing there. Is another submodule used, was GAP detached, or was the policy compiled before? "
                "Activation checkpointing must say use_reentrant=False. A step that is to leave it out says so: `with "
                "gap.adjusting(rho, step), gap.plain():`"
            )
        if active and not self._weighed and torch.is_grad_enabled():
            raise ConfigError("no losses went through gap.scale_losses, so GAP with rho='chunk' adjusts nothing")

    def scale_losses(self, losses: Float[torch.Tensor, "b *h"]) -> torch.Tensor:
        """Returns `losses` unchanged; with `rho="chunk"` the adjusted parameters learn from each by its own factor.

        Their gradient becomes that of Σ (1 - ρ_h)·L_h, every other parameter keeps that of Σ L_h, however the losses
        are masked, weighted and summed afterwards. Other terms of the loss are not adjusted. The backward pass goes
        through the policy twice, where it acts. With another ρ nothing changes.

        Args:
            losses: one for each action, in the leading axes that `rho` has in `adjusting`: [B, H], [B, H, A], … .

        Raises:
            ConfigError: ρ is of another number of actions.
        """
        self._weighed = True
        weight = None if self._plain else self._weight
        if weight is None or not losses.requires_grad:
            return losses
        if losses.shape[: weight.ndim] != weight.shape:
            raise ConfigError(
                f"rho is {list(weight.shape)} and the losses are {list(losses.shape)}; rho='chunk' needs the rho of "
                "the step that each action is about"
            )
        if not self._on_parameters:
            for name, parameter in self.parameters.items():
                self._on_parameters.append(parameter.register_hook(functools.partial(self._changed, name)))
        return scale_losses(losses, weight, self.parameters, self._change)

    def _changed(self, name: str, gradient: torch.Tensor) -> torch.Tensor | None:
        """A parameter's gradient after `scale_losses`; None: as it is."""
        change, columns = self._change.pop(name, None), self._columns.get(name)
        if change is None:
            return None
        adjusted = gradient + change
        if columns is None:
            return adjusted
        gradient = gradient.clone()
        for part in columns:
            gradient[:, part] = adjusted[:, part]
        return gradient

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Within this context gradients are those of the policy without GAP, and need no ρ."""
        before, self._plain, self._weighed = self._plain, True, True
        for place in self._places:
            place.passed = True
        try:
            yield
        finally:
            self._plain = before

    def watch(self, optimizer: torch.optim.Optimizer, *, decoupled: bool | None = None) -> torch.optim.Optimizer:
        """Applies λ (M6) to this optimizer's steps on the adjusted parameters, and returns it.

        Call it for each optimizer of the policy, at any time, also after loading its state. Keep what it returns: GAP
        holds no optimizer. Decoupled weight decay is not scaled; a decay that is added to the gradient (Adam, SGD with
        momentum) is part of the update.

        Args:
            optimizer: any `torch.optim.Optimizer`, or a wrapper with one in its attribute `optimizer`. Its groups,
                state and learning rates are left alone.
            decoupled: whether it subtracts lr·weight_decay·p from the parameter itself. Known of torch's optimizers
                and of every class with AdamW in its name; say it of others.
        """
        inner: Any = optimizer
        while not hasattr(inner, "_optimizer_step_pre_hooks"):  # accelerate's
            inner = inner.optimizer
        if all(steps.optimizer is not inner for steps in self._steps):
            targets = [(p, self._columns.get(name)) for name, p in self.parameters.items()]
            self._steps.append(ScaledSteps(inner, targets, decoupled))
        return optimizer

    def detach(self) -> None:
        """Removes every hook; the policy and the optimizer's steps are as they were."""
        for handle in self._handles + self._on_parameters:
            handle.remove()
        for steps in self._steps:
            steps.remove()
        self._handles, self._on_parameters, self._steps = [], [], []

    def _require_watched(self) -> None:
        optimizers = [o for steps in self._steps if (o := steps.optimizer) is not None]
        watched = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        if missing := [name for name, p in self.parameters.items() if id(p) not in watched]:
            raise ConfigError(
                f"lam = {self.schedule.factor} acts on the optimizer's steps, and none that trains {missing[0]} is "
                "watched: call gap.watch(optimizer) first and keep the optimizer, or choose lam=1"
            )

    def _before_pass(self, place: Place, inputs: Any, keywords: Any) -> None:
        """Refuses a submodule that reads what other parts have learned: it would not be the only one adjusted."""
        if self._sample is None or self._plain or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        read = [t for t in tree_leaves((inputs, keywords)) if isinstance(t, torch.Tensor) and t.requires_grad]
        if not in_backward() and any(t.grad_fn is not None or isinstance(t, nn.Parameter) for t in read):
            raise ConfigError(
                f"submodule {place.name!r} reads a tensor that has a gradient of its own, so GAP would adjust what "
                "lies before it too; attach to the part that reads the raw state, or to columns with attach_columns"
            )

    def _after_pass(self, place: Place, inputs: Any, keywords: Any, output: Any) -> Any:
        """The output with the pass's factors on its gradient; None: as it is."""
        if not torch.is_grad_enabled():
            return None
        if not torch.compiler.is_compiling() and in_backward():
            # activation checkpointing computes the pass again; the graph has its factors, and the same tensors are to
            # be saved once more
            sample = torch.ones(()) if self._scaled else None
        elif self._inside or self._plain:
            place.passed = True
            sample = None if self._plain else self._sample
            self._scaled = sample is not None
        elif self._handles and place.module.training and place.parameters():
            raise ConfigError(
                f"the policy is in training mode and went through {place.name!r} without rho: wrap the forward pass in "
                "`with gap.adjusting(batch['rho'], step):`, or in `with gap.plain():` for gradients without GAP"
            )
        else:
            self._scaled, sample = False, None
        return None if sample is None else place.scaled(sample, self._differs, inputs, keywords, output)


def attach(
    module: nn.Module, submodule_name: str | Sequence[str], schedule: AdjustmentSchedule = SLOWER, *, total_steps: int
) -> Adjustment:
    """Attaches GAP to the part of a policy that encodes proprioception.

    Args:
        module: the policy, before it is wrapped for several processes (or its wrapped module). Parameters that
            `fully_shard` (FSDP2) divides are refused.
        submodule_name: its proprioceptive encoder, or several, as in `module.named_modules()`: `"model.state_proj"`.
            The first axis of its output (tensors in tuples and dicts too) must be the batch; every parameter in it is
            adjusted, nothing else: what it reads must have no gradient of its own. What reaches its parameters
            otherwise than through its output, as a loss that it keeps in an attribute, is not adjusted.
        schedule: by default λ = 0.05 alone, without ρ; GAP with one loss a window: `AdjustmentSchedule(rho="current")`.
        total_steps: length of the training run; the window of the schedule is a fraction of it.

    Raises:
        ConfigError: no such submodule, nothing trainable in it, parameters that are used outside it too, or that GAP
            would act on twice.
    """
    names = (submodule_name,) if isinstance(submodule_name, str) else submodule_name
    return Adjustment(find_places(module, names), schedule, total_steps)


def attach_columns(
    module: nn.Module,
    columns: Mapping[str, slice | Sequence[slice]],
    schedule: AdjustmentSchedule = SLOWER,
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
        ConfigError: no such layer, another kind of layer, or columns that it does not have.

    Example:
        >>> policy = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 1))  # of 3 image features and 2 states
        >>> attach_columns(policy, {"0": slice(3, 5)}, AdjustmentSchedule(lam=0.3), total_steps=100)
        Adjustment (sample, lam 0.3) on 4 values:
          0.weight (2, 5) columns 3:5
    """
    return Adjustment(find_columns(module, columns), schedule, total_steps)
