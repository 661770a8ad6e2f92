"""GAP for any PyTorch policy (M6 to M8): a hook on the proprioceptive submodule, and λ on its parameter group.

    gap = attach(policy, "state_encoder", AdjustmentSchedule(lam=0.3), total_steps=10_000)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=3e-4))
    for step, batch in enumerate(batches):
        with gap.rho(batch["rho"], step):            # float[B] or float[B, W], from the dataset's steps/rho
            loss = policy.loss(batch)
        loss.backward()
        optimizer.step()
    gap.detach()                                     # the policy is as it was

The forward pass, the parameters and their names stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from gap_vla.adjustment.schedule import AdjustmentSchedule, Factors


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factor,) = context.saved_tensors
        return cotangents[0] * factor.to(cotangents[0].dtype), None


def scale_gradient(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Returns `x` unchanged; its gradient is multiplied by `factor` (broadcast against `x`)."""
    return _ScaleGradient.apply(x, factor)


class Adjustment:
    """GAP attached to one submodule; made by `attach`.

    Attributes:
        parameters: the adjusted parameters by their full name.
    """

    def __init__(self, module: nn.Module, name: str, schedule: AdjustmentSchedule, total_steps: int):
        submodules = dict(module.named_modules())
        if not name or name not in submodules:
            known = ", ".join(n for n in submodules if n and n.count(".") <= 1)
            raise ValueError(f"the policy has no submodule {name!r}; it has {known or 'none'}")
        submodule = submodules[name]
        self.parameters = {f"{name}.{n}": p for n, p in submodule.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError(f"submodule {name!r} has no trainable parameter, so GAP would adjust nothing")
        own = {id(p) for p in self.parameters.values()}
        shared = [n for n, p in module.named_parameters(remove_duplicate=False) if id(p) in own]
        outside = [n for n in shared if not n.startswith(f"{name}.")]
        if outside:
            raise ValueError(f"{outside[0]} is shared with {name!r}: GAP would adjust it outside the proprio branch")
        self.schedule, self.total_steps = schedule, total_steps
        self._name = name
        self._factors: Factors | None = None
        self._sample: torch.Tensor | None = None
        self._handles: list[Any] = [submodule.register_forward_hook(self._on_output)]

    @contextlib.contextmanager
    def rho(self, rho: Float[torch.Tensor, "b *w"] | Float[np.ndarray, "b *w"], step: int) -> Iterator[None]:
        """Within this context the submodule's outputs carry the factors of a training step.

        Args:
            rho: transition probability of each sample, or of each sample and window step.
            step: 0-based training step, which decides whether GAP acts.
        """
        values = rho.detach().cpu().numpy() if isinstance(rho, torch.Tensor) else np.asarray(rho)
        values = values.astype(np.float32).reshape(len(values), -1)
        self._factors = self.schedule.factors(values, step, self.total_steps)
        self._sample = torch.from_numpy(self._factors.sample)
        try:
            yield
        finally:
            self._sample = None

    def _on_output(self, submodule: nn.Module, inputs: Any, output: Any) -> Any:
        if self._sample is None or not torch.is_grad_enabled():
            return None
        if not isinstance(output, torch.Tensor):
            raise TypeError(
                f"submodule {self._name!r} returns a {type(output).__name__}, not a tensor; attach GAP to the part of "
                "it that does"
            )
        return scale_gradient(output, self._shaped(output))

    def _shaped(self, output: torch.Tensor) -> torch.Tensor:
        """The factors in the output's leading axes: (B, W, …), (B·W, …), or (B, …) with the window's last ρ."""
        assert self._sample is not None
        sample = self._sample.to(output.device)
        batch, window = sample.shape
        if output.ndim >= 3 and output.shape[:2] == (batch, window):
            return sample.reshape(batch, window, *[1] * (output.ndim - 2))
        if len(output) == batch:
            return sample[:, -1].reshape(batch, *[1] * (output.ndim - 1))
        if len(output) == batch * window:
            return sample.reshape(batch * window, *[1] * (output.ndim - 1))
        raise ValueError(
            f"submodule {self._name!r} returned shape {tuple(output.shape)} for rho of shape {tuple(sample.shape)}; "
            "its first axis must be the batch (or batch times window)"
        )

    def watch(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Applies λ (M6) or the batch factor (M7) to this optimizer's steps, and returns it.

        The adjusted parameters get a parameter group of their own. During a step its learning rate is multiplied by λ
        and its weight decay divided by it, so that decay stays what it was; learning-rate schedulers do not notice.

        Raises:
            ValueError: the optimizer does not hold all adjusted parameters, or has taken steps already.
        """
        own = {id(p) for p in self.parameters.values()}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not own <= held:
            missing = next(n for n, p in self.parameters.items() if id(p) not in held)
            raise ValueError(f"the optimizer does not train {missing}; give it all parameters before watching it")
        if optimizer.state:
            raise ValueError("the optimizer has taken steps already; watch it before the first one")
        for group in list(optimizer.param_groups):
            mine = [p for p in group["params"] if id(p) in own]
            if mine and len(mine) < len(group["params"]):
                group["params"] = [p for p in group["params"] if id(p) not in own]
                optimizer.add_param_group({**{k: v for k, v in group.items() if k != "params"}, "params": mine})
        groups = [g for g in optimizer.param_groups if any(id(p) in own for p in g["params"])]
        saved: list[tuple[Any, Any]] = []

        def before(*_: Any) -> None:
            factors = self._factors
            if factors is None:
                return
            for parameter in self.parameters.values():
                if parameter.grad is not None and factors.gradient != 1:
                    parameter.grad.mul_(float(factors.gradient))
            for group in groups:
                saved.append((group["lr"], group.get("weight_decay")))
                if factors.update != 1:
                    lam = max(float(factors.update), 1e-12)
                    group["lr"] = group["lr"] * lam
                    if group.get("weight_decay"):
                        group["weight_decay"] = group["weight_decay"] / lam

        def after(*_: Any) -> None:
            for group, (rate, decay) in zip(groups, saved):
                group["lr"] = rate
                if decay is not None:
                    group["weight_decay"] = decay
            saved.clear()

        self._handles += [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
        return optimizer

    def detach(self) -> None:
        """Removes every hook; the policy and the optimizer's steps are as they were."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def attach(module: nn.Module, submodule_name: str, schedule: AdjustmentSchedule, *, total_steps: int) -> Adjustment:
    """Attaches GAP to the part of a policy that encodes proprioception.

    Args:
        module: the policy.
        submodule_name: its proprioceptive encoder as in `module.named_modules()`, e.g. `"model.state_proj"`. Its output
            must be a tensor whose first axis is the batch; everything in it is adjusted, nothing else.
        schedule: when and how strongly. With one loss per window use `rho="current"`.
        total_steps: length of the training run; the window of the schedule is a fraction of it.

    Raises:
        ValueError: no such submodule, nothing trainable in it, or parameters that are used outside it too.
    """
    return Adjustment(module, submodule_name, schedule, total_steps)
