"""Small vision-proprioception policies in torch: encoders, fusions, heads and training methods by name.

    policy = build_policy(SmallModelConfig(), "concat", image_shape=(64, 64, 3), proprio_dim=9, action_dim=7)
    chunk = policy(batch)

Importing this loads no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "METHODS": "names",
    "SmallConfig": "config",
    "SmallModelConfig": "config",
    "SmallPolicy": "policy",
    "build_policy": "policy",
    "method_of": "names",
    "small_experiment": "config",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
