"""What is wrong with an RLDS dataset, of whatever origin: `check_dataset(version_dir) -> Report`."""

import importlib
from typing import Any

_HOME = {"Report": "report", "check_dataset": "run"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
