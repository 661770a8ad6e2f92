"""What a room offers by name, loaded when it is asked for: importing a room loads no JAX, torch or TensorFlow.

__all__, __getattr__, __dir__ = exports(__name__, {"segment": "segmentation", "annotate": "annotation"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, homes: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        homes: name to the module of the package that defines it.

    >>> names, get, _ = exports("gap_vla.core", {"UserError": "errors"})
    >>> names, get("UserError").__name__
    (['UserError'], 'UserError')
    """
    names = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return names, get, lambda: names
