"""Training of small torch policies from an episode store: no TensorFlow, no JAX, no simulator."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {"train_small": "run", "run_directory_of": "run", "report": "run"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
