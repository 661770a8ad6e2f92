"""A model's inputs and outputs as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import traverse_util

if TYPE_CHECKING:
    from gap_vla.octo.model import OctoModel


def pretty_spec(model: OctoModel) -> str:
    """Observations, tasks and actions with their shapes, the parts of the model and its number of parameters."""
    observation, task = model.example_batch["observation"], model.example_batch["task"]
    transformer = model.module.octo_transformer
    lines = ["Observations (batch B, window W):", *_shapes(observation, ("B", "W"))]
    lines += ["Task (batch B):", *_shapes(task, ("B",))]
    lines += [f"Longest window: {transformer.max_horizon}"]
    lines += ["Tokenizers:"]
    lines += [f"  obs_{n}: {type(t).__name__}" for n, t in transformer.observation_tokenizers.items()]
    lines += [f"  task_{n}: {type(t).__name__}" for n, t in transformer.task_tokenizers.items()]
    lines += ["Heads:"]
    for name, head in model.module.heads.items():
        gives = f"(B, {head.action_horizon}, {head.action_dim})"
        lines += [f"  {name}: {type(head).__name__} reads {head.readout_key}, gives {gives}"]
    total = sum(int(np.prod(leaf.shape)) for leaf in _flatten(model.params).values())
    lines += [f"Parameters: {total:,}"]
    return "\n".join(lines)


def _shapes(tree: Mapping[str, Any], leading: tuple[str, ...]) -> list[str]:
    return [
        f"  {key}: {np.asarray(leaf).dtype}[{', '.join([*leading, *map(str, leaf.shape[len(leading) :])])}]"
        for key, leaf in sorted(_flatten(tree).items())
    ]


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(tree), sep="/")
