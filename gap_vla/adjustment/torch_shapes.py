"""How ρ[B, W] lies in the tensors of a policy: in the leading axes; the window may be missing or flattened."""

from __future__ import annotations

import torch

from gap_vla.adjustment.schedule import AdjustmentError
from gap_vla.adjustment.torch_places import Place


def factor_of_output(name: str, sample: torch.Tensor, shape: torch.Size, differs: bool) -> torch.Tensor:
    """The factors in the leading axes of a tensor: (B, W, …), (B·W, …), or (B, …) for one ρ of the whole window.

    Args:
        name: of the submodule, for the error.
        sample: float32[B, W], or a single number.
        shape: of the tensor.
        differs: whether the factors differ over the window, so that a tensor without its axis is an error.

    Raises:
        AdjustmentError: the tensor has no such axes.
    """
    if sample.ndim == 0:
        return sample
    batch, window = sample.shape
    if len(shape) >= 3 and tuple(shape[:2]) == (batch, window):
        return sample
    if len(shape) and shape[0] == batch:
        if differs and window > 1:
            raise AdjustmentError(
                f"rho of shape {tuple(sample.shape)} differs over the window, for which {name!r} has no axis in shape "
                f"{tuple(shape)}; choose AdjustmentSchedule(rho='current'), or set rho[:, t] around the pass of step t"
            )
        return sample[:, -1]
    if len(shape) and shape[0] == batch * window:
        return sample.reshape(batch * window)
    raise AdjustmentError(
        f"submodule {name!r} has a tensor of shape {tuple(shape)} for rho of shape {tuple(sample.shape)}; "
        "its first axis must be the batch (or batch times window)"
    )


def factor_of_columns(place: Place, sample: torch.Tensor, x: torch.Tensor, differs: bool) -> torch.Tensor:
    """The factors of a linear layer's input x[B, …, in]: float32, broadcast against x, 1 outside the columns.

    With as many slices as the window has steps, each slice carries the factors of its step.

    Raises:
        AdjustmentError: as in `factor_of_output`.
    """
    assert place.columns is not None
    parts = place.columns
    window_axis = x.ndim >= 3 and x.shape[:2] == sample.shape
    if sample.ndim == 2 and 1 < len(parts) == sample.shape[1] and x.shape[0] == len(sample) and not window_axis:
        steps = list(sample.unbind(1))
    else:
        same = factor_of_output(place.name, sample, x.shape, differs)
        steps = [same if same.ndim else same.reshape(1)] * len(parts)
    lead = steps[0].shape
    factor = torch.ones(*lead, *[1] * (x.ndim - 1 - len(lead)), x.shape[-1], device=x.device)
    for columns, of_step in zip(parts, steps):
        factor[..., columns] = of_step.to(x.device).reshape(*lead, *[1] * (x.ndim - len(lead)))
    return factor
