"""Gradients multiplied sample by sample, with the forward pass left bit for bit as it was (M6).

Outside of a compiler a factor is no saved tensor, but belongs to the node of the graph: activation checkpointing
computes saved tensors again, at a time when another batch's ρ may be set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            context.save_for_backward(factor)
        else:
            context.factor = factor
        return x.clone()  # what follows may work in place, as ReLU(inplace=True) does, which torch refuses on a view

    @staticmethod
    def backward(context: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None]:
        factor = context.saved_tensors[0] if torch.compiler.is_compiling() else context.factor
        return (cotangents[0] * factor).to(cotangents[0].dtype), None  # half precision is rounded once, after that


def scale_gradient(x: torch.Tensor, factor: torch.Tensor, features: slice | None = None) -> torch.Tensor:
    """Returns `x` unchanged; its gradient is multiplied by `factor`.

    Args:
        x: floating tensor [B, …].
        factor: broadcast against `x` from the left: [B] or [B, T] (M6: 1 - ρ), or anything of x's number of axes.
        features: part of the last axis that is scaled; the rest of the gradient stays. Default: all.

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> scale_gradient(x, torch.tensor([1.0, 0.25]), features=slice(0, 1)).sum().backward()
        >>> x.grad.tolist()
        [[1.0, 1.0, 1.0], [0.25, 1.0, 1.0]]
    """
    factor = factor.reshape(*factor.shape, *[1] * (x.ndim - factor.ndim)).to(x.device)
    if features is not None:
        whole = torch.ones(*factor.shape[:-1], x.shape[-1], device=x.device)
        whole[..., features] = factor
        factor = whole
    return _ScaleGradient.apply(x, factor)


class _ScaleColumns(torch.autograd.Function):
    """y = x Wᵀ + b, where x counts as x·factor in the gradient of W, and in that alone."""

    @staticmethod
    def forward(context: Any, y: torch.Tensor, x: torch.Tensor, weight: Any, bias: Any, factor: Any) -> torch.Tensor:
        if torch.compiler.is_compiling():
            context.save_for_backward(x, weight, factor)
        else:
            context.save_for_backward(x, weight)
            context.factor = factor
        return y.clone()  # as in `_ScaleGradient`

    @staticmethod
    def backward(context: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        delta = cotangents[0]
        x, weight = context.saved_tensors[:2]
        factor = context.saved_tensors[2] if torch.compiler.is_compiling() else context.factor
        rows = delta.reshape(-1, delta.shape[-1])
        to_x = to_weight = to_bias = None
        if context.needs_input_grad[1]:
            to_x = (delta @ weight.to(delta.dtype)).to(x.dtype)
        if context.needs_input_grad[2]:
            scaled = (x * factor).to(delta.dtype)
            to_weight = (rows.T @ scaled.reshape(-1, scaled.shape[-1])).to(weight.dtype)
        if context.needs_input_grad[3]:
            to_bias = rows.sum(0)
        return None, to_x, to_weight, to_bias, None


def scale_columns(y: torch.Tensor, x: torch.Tensor, layer: nn.Linear, factor: torch.Tensor) -> torch.Tensor:
    """Returns y = layer(x) unchanged, with another gradient of the layer's weight: Σ_b δ_b ⊗ (factor_b · x_b).

    So the columns that read a slice of x learn from sample b by the factor of that slice; the bias, the other columns
    and everything before and after the layer get the gradients they had.

    Args:
        y: the layer's output [B, …, out].
        x: its input [B, …, in].
        layer: the linear layer.
        factor: broadcast against `x`; 1 where nothing is to be changed.
    """
    return _ScaleColumns.apply(y.detach(), x, layer.weight, layer.bias, factor)


class _ScaleLosses(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, losses: torch.Tensor, weight: Any, parameters: Any, change: Any) -> torch.Tensor:
        context.all = losses, weight, parameters, change
        return losses.clone()

    @staticmethod
    def backward(context: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        losses, weight, parameters, change = context.all
        more = (cotangents[0] * (weight - 1)).to(cotangents[0].dtype)
        gradients = torch.autograd.grad(losses, list(parameters.values()), more, retain_graph=True, allow_unused=True)
        for name, gradient in zip(parameters, gradients):
            if gradient is not None:  # of several passes in one backward pass: the sum
                change[name] = change[name] + gradient if name in change else gradient
        return cotangents[0], None, None, None


def scale_losses(
    losses: torch.Tensor,
    weight: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    change: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Returns `losses` unchanged; their backward pass begins with one of (weight - 1) · losses to `parameters` alone.

    The sum of both is the gradient of weight · losses.

    Args:
        losses: float[B, H, …], one for each action.
        weight: broadcast against `losses` from the left (M6 for each action: 1 - ρ).
        parameters: by name.
        change: gets the gradients of the former, by name, before the plain ones reach any parameter.
    """
    weight = weight.reshape(*weight.shape, *[1] * (losses.ndim - weight.ndim)).to(losses.device)
    return _ScaleLosses.apply(losses, weight, parameters, change)


def in_backward() -> bool:
    """Whether this runs inside a backward pass, as the recomputation of activation checkpointing does."""
    return torch._C._current_graph_task_id() != -1
