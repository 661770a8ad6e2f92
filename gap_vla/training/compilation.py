"""Compiling for little time instead of fast steps, for runs so short that compilation takes most of them; and giving
back the memory that compiling took."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import jax

QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
"""Of XLA on a CPU: a third less compilation, steps up to 7 % slower."""


@functools.cache
def quick_compilation() -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit`; None on other devices, and where this XLA does not know the options."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=QUICK).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return QUICK


def return_free_memory() -> None:
    """Hands memory that the compiler used and freed back to the system (Linux with glibc; elsewhere nothing happens).

    A program of Octo's size takes almost a gigabyte to compile, which would otherwise stay beside that of the steps.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
