"""Gradients multiplied sample by sample, with the forward pass left bit for bit as it was (M6).

Factors are no saved tensors in eager mode but belong to the node of the graph: activation checkpointing recomputes what
a node saved, at a time when another batch's ρ may be set, and must not replace them.
"""

from __future__ import annotations

import collections
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gap_vla.adjustment.schedule import AdjustmentError


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, factor: torch.Tensor, shared: bool) -> torch.Tensor:
        if torch.compiler.is_compiling():
            context.save_for_backward(factor)
        else:
            context.factor = factor
        # torch refuses what works in place on such a view, ReLU(inplace=True) too; a clone would part shared values
        return x.view_as(x) if shared else x.clone()

    @staticmethod
    def backward(context: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        factor = context.saved_tensors[0] if torch.compiler.is_compiling() else context.factor
        scaled = (cotangents[0] * factor).to(cotangents[0].dtype)  # half precision is rounded once, after the product
        return scaled, None, None


def scale_gradient(x: torch.Tensor, factor: torch.Tensor, features: slice | None = None) -> torch.Tensor:
    """Returns `x` unchanged; its gradient is multiplied by `factor`.

    Args:
        x: floating tensor [B, …].
        factor: broadcast against `x` from the left: [B] or [B, T] (M6: 1 - ρ), or anything of x's number of axes.
        features: part of the last axis that is scaled; the rest of the gradient stays. Default: all.

    Raises:
        AdjustmentError: the last axis has no such part, or the factor is no tensor of x's first axes; it is NaN,
            infinite or below 0 (not noticed while this is being compiled).

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> scale_gradient(x, torch.tensor([1.0, 0.25]), features=slice(0, 1)).sum().backward()
        >>> x.grad.tolist()
        [[1.0, 1.0, 1.0], [0.25, 1.0, 1.0]]
    """
    if not isinstance(factor, torch.Tensor):
        raise AdjustmentError(f"factor is a {type(factor).__name__}; give a tensor, [B] or [B, T]")
    if torch.is_grad_enabled() and not x.requires_grad and not torch.compiler.is_compiling():
        warnings.warn(
            "x has no gradient that could be scaled: give what the encoder of the state gives, not what it reads",
            stacklevel=2,
        )
    same = factor.ndim == x.ndim and all(size in (1, whole) for size, whole in zip(factor.shape, x.shape))
    if not (same or factor.shape == x.shape[: factor.ndim]) or factor.is_complex():
        raise AdjustmentError(
            f"factor is {factor.dtype}{[*factor.shape]} for x of shape {[*x.shape]}; give [B] or [B, T]"
        )
    if not torch.compiler.is_compiling() and (odd := factor[~(factor.isfinite() & (factor >= 0))]).numel():
        raise AdjustmentError(f"factor is {float(odd[0]):g} in places; factors are 0 or more, and finite")
    return scaled(x, factor, features)


def scaled(x: torch.Tensor, factor: torch.Tensor, features: slice | None = None, shared: bool = False) -> torch.Tensor:
    """`scale_gradient` with a factor that is known to fit; `shared`: x's values are to change with others, so torch
    refuses what would change them in place.
    """
    factor = factor.reshape(*factor.shape, *[1] * (x.ndim - factor.ndim)).to(x.device)
    if features is not None:
        ends = [end for end in (features.start, features.stop) if end is not None]
        if not len(range(x.shape[-1])[features]) or not all(-x.shape[-1] <= end <= x.shape[-1] for end in ends):
            raise AdjustmentError(f"features {features} are none of the {x.shape[-1]} of the last axis")
        whole = torch.ones(*factor.shape[:-1], x.shape[-1], device=x.device)
        whole[..., features] = factor
        factor = whole
    return _ScaleGradient.apply(x, factor, shared)


def overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have a value in common, so that what is changed in place in one is changed in the other.

    Where that would take long to find out, as for windows of different widths in one storage, they count as shared.
    """
    if not one.layout == other.layout == torch.strided:
        return False
    storage = one.untyped_storage().data_ptr()
    if not storage or storage != other.untyped_storage().data_ptr():
        return False
    return _meet(_places(one), _places(other))


def _places(tensor: torch.Tensor) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    return tensor.element_size(), int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


@functools.lru_cache(maxsize=4096)  # a model gives the same shapes at each step
def _meet(
    one: tuple[int, int, Sequence[int], Sequence[int]], other: tuple[int, int, Sequence[int], Sequence[int]]
) -> bool:
    """Whether offset + Σ i·stride is the same for some indices i of the one and j of the other.

    For each stride, the largest first, the differences i - j are tried after which the smaller strides can still make
    up the rest: for parts of one tensor these are one to three.
    """
    low, high = collections.Counter[int](), collections.Counter[int]()
    (size, offset, shape, strides), (of_other, begin, others, steps) = one, other
    if 0 in shape or 0 in others:
        return False
    for n, stride in zip(shape, strides):
        high[stride] += n - 1
    for n, stride in zip(others, steps):
        low[stride] -= n - 1
    if size != of_other:  # such as a number's real part
        end, stop = offset + 1 + sum(s * n for s, n in high.items()), begin + 1 - sum(s * n for s, n in low.items())
        return offset * size < stop * of_other and begin * of_other < end * size
    rests = {begin - offset}
    left = sorted({*low, *high} - {0})
    while left:
        stride = left.pop()
        below, above = sum(s * low[s] for s in left), sum(s * high[s] for s in left)
        ranges = [
            (
                rest,
                range(max(low[stride], -((above - rest) // stride)), min(high[stride], (rest - below) // stride) + 1),
            )
            for rest in rests
        ]
        if sum(len(differences) for _, differences in ranges) > 1000:
            return True
        rests = {rest - difference * stride for rest, differences in ranges for difference in differences}
    return 0 in rests


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


def in_backward() -> bool:
    """Whether this runs inside a backward pass, as the recomputation of activation checkpointing does."""
    return torch._C._current_graph_task_id() != -1
