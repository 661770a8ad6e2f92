"""Loops compiled by numba, and kept for later processes wherever there is a place for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Any], Any]:
    """`numba.njit` of a function without annotations, anew in each process if neither package nor home is writable."""

    def decorate(function: Any) -> Any:
        function = inspect.unwrap(function)  # tests put checks of types around everything
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba found no place for what it compiles
            return njit(**options)(function)

    return decorate
