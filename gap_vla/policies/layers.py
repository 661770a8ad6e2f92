"""Plain layers that several parts are made of."""

from __future__ import annotations

from torch import nn


def mlp(inputs: int, hidden: int, layers: int, outputs: int | None = None) -> nn.Sequential:
    """`layers` linear layers of `hidden` units, each followed by ReLU; with `outputs`, one more linear layer."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inputs, hidden), nn.ReLU()]
        inputs = hidden
    if outputs is not None:
        parts.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*parts)
