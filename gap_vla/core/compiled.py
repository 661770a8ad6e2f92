"""Loops compiled by numba, and kept for later processes wherever there is a place for them."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from numba import njit
from numba.core.dispatcher import Dispatcher

ROOM = 1 << 20
"""Bytes that the place must hold; what is kept of a function is a tenth of that."""


def compiled(**options: Any) -> Callable[[Any], Any]:
    """`numba.njit` of a function without annotations, anew in each process if neither package nor home is writable,
    or the disk of the one that is has no room."""

    def decorate(function: Any) -> Any:
        function = inspect.unwrap(function)  # tests put checks of types around everything
        if _homeless(function):
            return njit(**options)(function)
        try:
            kept = njit(cache=True, **options)(function)
            if hasattr(kept, "stats"):  # NUMBA_DISABLE_JIT leaves the function as it is
                with tempfile.TemporaryFile(dir=kept.stats.cache_path) as file:
                    file.write(bytes(ROOM))
            return kept
        except (RuntimeError, OSError):  # numba found no place for what it compiles, or it is full
            return njit(**options)(function)

    return decorate


@contextlib.contextmanager
def kept_where_there_is_room() -> Iterator[None]:
    """While a package of others is imported whose functions numba shall keep: where there is no place for them, they
    are compiled anew in each process, and numba does not raise."""
    functions: Any = Dispatcher
    keep = functions.enable_caching

    def try_to_keep(function: Any) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            if not _homeless(function.py_func):
                keep(function)

    functions.enable_caching = try_to_keep
    try:
        yield
    finally:
        functions.enable_caching = keep


def _homeless(function: Any) -> bool:
    """Whether numba would keep a function below a folder that it makes here and calls ~: its package may only be read,
    and the user has no home."""
    told = any(os.environ.get(name, "~") != "~" for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"))
    if told or os.path.expanduser("~") != "~":
        return False
    package = os.path.dirname(inspect.getfile(function))
    beside = os.path.join(package, "__pycache__")
    return not os.access(beside if os.path.isdir(beside) else package, os.W_OK)
