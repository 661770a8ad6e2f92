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

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from gap_vla.adjustment.schedule import AdjustmentError, AdjustmentSchedule
from gap_vla.adjustment.torch_forward import ForwardHooks
from gap_vla.adjustment.torch_gradients import scale_gradient
from gap_vla.adjustment.torch_optimizer import OptimizerWatch, refuse_attached
from gap_vla.adjustment.torch_places import Place, find_columns, find_places, refuse_shared
from gap_vla.core.foreign import whole
from gap_vla.core.typed_config import STEPS

__all__ = ["Adjustment", "attach", "attach_columns", "scale_gradient"]


class Adjustment:
    """GAP attached to a policy; made by `attach` or `attach_columns`. As a context manager it detaches on leaving.

    Attributes:
        parameters: the adjusted parameters by their full name.
        schedule: when and how strongly, from the next `adjusting` on; another may be assigned, if `attach` took it.
    """

    def __init__(self, policy: nn.Module, places: Sequence[Place], schedule: AdjustmentSchedule, total_steps: int):
        self.total_steps = whole("total_steps", total_steps, 1, STEPS, AdjustmentError)
        self._policy, self._places = policy, places
        self.parameters = {name: p for place in places for name, p in place.parameters().items()}
        self._columns = {f"{place.name}.weight": place.columns for place in places if place.columns is not None}
        self._steps = OptimizerWatch(self.parameters, self._columns, self._step_is_over)
        self._forward = ForwardHooks(places, self._steps.end)
        self._schedule = schedule
        self._attached, self._latest, self._stepped = True, 0, False  # the last: since the last `adjusting`
        self._window: int | None = None  # of the last batch of several samples
        self._repeated = 0

    @property
    def schedule(self) -> AdjustmentSchedule:
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: AdjustmentSchedule) -> None:
        _require_fitting(schedule, self._places)
        self._schedule = schedule

    def __repr__(self) -> str:
        read = {name: sum(c.stop - c.start for c in columns) for name, columns in self._columns.items()}
        known = {n: p for n, p in self.parameters.items() if not nn.parameter.is_lazy(p)}  # others have no shape yet
        count = sum(len(p) * read[name] if name in read else p.numel() for name, p in known.items())
        listed = "".join(
            f"\n  {n} {tuple(p.shape) if n in known else 'before its first pass'}"
            + (f" columns {', '.join(f'{c.start}:{c.stop}' for c in self._columns[n])}" if n in self._columns else "")
            for n, p in self.parameters.items()
        )
        return f"GAP ({self.schedule.mode}, lam {self.schedule.lam}) on {count:,} values:{listed}"

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

        The backward pass may come later, also after other forward passes with another ρ.

        Args:
            rho: transition probability of each sample, or of each sample and window step ([1, W] is one sample, also
                where the output has W rows, which are then taken for its steps); factors are float32. None
                where none is needed: mode `fixed` or `none`, or after the schedule's window.
            step: 0-based training step, which decides whether GAP acts.

        Raises:
            AdjustmentError: ρ is needed and absent, lies outside [0, 1], or fits no output of the submodule; λ is to
                act and no optimizer is watched; a submodule is another one by now, trains other parameters, or shares
                some with another part; this is within `plain()`, or another thread is in such a context; in the
                schedule's window, GAP was detached, or no forward pass went through one of the submodules (a step that
                is to leave it out says so: `with gap.adjusting(rho, step), gap.plain():`).
        """
        active = self.schedule.active(step, self.total_steps)
        if active and not self._attached:
            raise AdjustmentError("GAP is detached from this policy: attach it again, or leave `adjusting` out")
        if step >= self.total_steps:
            warnings.warn(
                f"training step {step} of a run of {self.total_steps} steps: GAP's window is a share of these; "
                "was total_steps counted in epochs?",
                stacklevel=3,
            )
        if step < self._latest:
            warnings.warn(
                f"training step {step} after step {self._latest}: steps count over the whole training, or GAP acts for "
                "too long; was a batch's number within its epoch given?",
                stacklevel=3,
            )
        self._repeated = self._repeated + 1 if self._stepped and step == self._latest else 0
        if self._repeated == 100:
            warnings.warn(
                f"training step {step} for the 100th time, after steps of the optimizer: steps count over the whole "
                "training, or GAP acts for too long; was the number of the epoch given, or one that stays?",
                stacklevel=3,
            )
        self._latest = int(step)
        if active and self._forward.is_plain:
            raise AdjustmentError(
                "adjusting within `gap.plain()` adjusts no gradient, and lam would act: write "
                "`with gap.adjusting(rho, step), gap.plain():`, or leave `adjusting` out for a training without GAP"
            )
        if rho is None and active and self.schedule.needs_rho:
            raise AdjustmentError(
                f"training step {step} has no rho, which mode {self.schedule.mode!r} needs; annotate the dataset and "
                "hand its rho column on to the batch"
            )
        values: Any = np.zeros((1, 1)) if rho is None else rho
        if isinstance(rho, torch.Tensor):  # numpy has no bfloat16
            values = (rho.float() if rho.is_floating_point() else rho).numpy(force=True)
        if isinstance(rho, (list, tuple)) and any(getattr(part, "ndim", 0) for part in rho):
            raise AdjustmentError(
                f"rho is a {type(rho).__name__} of {len(rho)} parts: torch's default_collate makes one for each window "
                "step of samples that hold lists; give one array, [B] or [B, W], as torch.stack(rho, 1) of those"
            )
        if (values := np.asanyarray(values)).dtype.kind in "biuf":
            values = values.astype(np.float32)
        factors = self.schedule.factors(values, min(step, self.total_steps), self.total_steps)
        samples, window = factors.sample.shape
        if samples == 1 < window and self._window not in (None, window):
            raise AdjustmentError(
                f"rho of shape [1, {window}] is of one sample and {window} window steps, and batches before had "
                f"{self._window}; give that of a batch as [B], [B, 1] or [B, W]"
            )
        if samples > 1:
            self._window = window
        if active and (changed := [place.name for place in self._places if place.changed(self._policy)]):
            raise AdjustmentError(
                f"{changed[0]!r} changed since GAP was attached: it is another module now, or trains other parameters; "
                "call detach(), and attach again"
            )
        if self._steps.shared:  # perhaps; to look at each step costs more than GAP
            refuse_shared(self._policy, self._places)
            self._steps.shared = False
        missing = [name for name, p in self.parameters.items() if not self._steps.watcher(p)]
        if factors.update != 1 and missing:
            raise AdjustmentError(
                f"lam = {self.schedule.lam} acts on the optimizer's steps, and none that trains {missing[0]} is "
                "watched: call gap.watch(optimizer) first and keep the optimizer, or choose lam=1"
            )
        # M7's factor of the summed gradient is one number, so it may as well act on every sample's part of the sum
        sample = torch.from_numpy(factors.sample * factors.gradient)
        sample = sample.to(next(iter(self.parameters.values())).device, non_blocking=True)
        with self._forward.carrying(sample[0, 0] if rho is None else sample, identity=not active):
            self._steps.begin(float(factors.update))
            self._stepped = False
            self._forward.differs = self.schedule.rho == "step" and self.schedule.mode in ("sample", "sample_lambda")
            yield

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Within this context gradients are those of the policy without GAP, and need no ρ. The optimizer's next step
        is still scaled by the λ of the last `adjusting`, if none was since."""
        self._forward.require_own_thread()
        self._steps.end()
        with self._forward.plain():
            yield

    def _step_is_over(self) -> None:
        self._stepped = True
        self._forward.step_is_over()

    def watch(self, optimizer: torch.optim.Optimizer, *, decoupled: bool | None = None) -> torch.optim.Optimizer:
        """Applies λ (M6) to this optimizer's steps on the adjusted parameters, and returns it.

        Call it for each optimizer of the policy (one that trains none of them is left alone), at any time, also after
        loading its state, and once more for one that was given further parameters. Keep what it returns: GAP holds no
        optimizer, and one that is gone is watched no more. Decoupled weight decay is not scaled; one that is added to
        the gradient (Adam, SGD with momentum) is part of the update.

        Args:
            optimizer: any `torch.optim.Optimizer`. Its groups, state and learning rates are left alone.
            decoupled: whether it subtracts lr·weight_decay·p from the parameter itself. Known of torch's optimizers
                and of every class with AdamW in its name; say it of others.

        Raises:
            AdjustmentError: another one that trains the same parameters is watched already, or this one with another
                `decoupled`; it is a wrapper that takes no hooks, or schedule-free; or GAP is detached.
        """
        if not self._attached:
            raise AdjustmentError("GAP is detached from this policy; attach it again before watching an optimizer")
        self._steps.watch(optimizer, decoupled)
        return optimizer

    def detach(self) -> None:
        """Removes every hook; the policy and the optimizer's steps are as they were."""
        self._forward.remove()
        self._steps.remove()
        self._attached = False


def attach(
    module: nn.Module, submodule_name: str | Sequence[str], schedule: AdjustmentSchedule, *, total_steps: int
) -> Adjustment:
    """Attaches GAP to the part of a policy that encodes proprioception.

    Args:
        module: the policy, before it is wrapped for several processes (or its wrapped module).
        submodule_name: its proprioceptive encoder, or several, as in `module.named_modules()`: `"model.state_proj"`.
            The first axis of its output (tensors in tuples and dicts too) must be the batch, which that of an RNN's
            hidden state is not; every parameter in it is adjusted, nothing else: what it reads must have no gradient of
            its own. What reaches its parameters otherwise than through its output, as a loss that it keeps in an
            attribute, is not adjusted.
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


def _require_fitting(schedule: AdjustmentSchedule, places: Sequence[Place]) -> None:
    if not isinstance(schedule, AdjustmentSchedule):
        raise AdjustmentError(f"schedule is {schedule!r:.60}; give an AdjustmentSchedule")
    if schedule.needs_rho and (odd := [place for place in places if isinstance(place.module, nn.RNNBase)]):
        kind = type(odd[0].module).__name__
        raise AdjustmentError(
            f"submodule {odd[0].name!r} is a {kind}, whose hidden state has no batch first; let a module of your own "
            "hold it, and give only its output [B, W, …]"
        )


def _attached(module: nn.Module, places: Sequence[Place], schedule: AdjustmentSchedule, total_steps: int) -> Adjustment:
    _require_fitting(schedule, places)
    refuse_attached({n: p for place in places for n, p in place.parameters().items()})
    _let_compilers_see_hooks()
    return Adjustment(module, places, schedule, total_steps)


def _let_compilers_see_hooks() -> None:
    """Modules of a class share what `torch.compile` makes, in which by default nothing asks whether they have hooks."""
    import torch._dynamo  # as every optimizer does

    if getattr(torch._dynamo.config, "skip_nnmodule_hook_guards", False):
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch._dynamo.reset()  # what was compiled without asking


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
