"""Normal noise that depends on a generator alone, whatever the device and whoever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the whole batch, one for every sample, or None for torch's own."""


def normal(shape: tuple[int, ...], like: torch.Tensor, generators: Generators) -> torch.Tensor:
    """float32 noise of `shape` on the device of `like`; with one generator per sample, each draws its own row."""
    if generators is None or isinstance(generators, torch.Generator):
        return torch.randn(shape, generator=generators).to(like.device)
    return torch.stack([torch.randn(shape[1:], generator=one) for one in generators]).to(like.device)
