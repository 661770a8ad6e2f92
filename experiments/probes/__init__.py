"""What trained policies see and when it matters: takeovers by another policy, linear probes, similarity."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "TakeoverPolicy": "takeover",
    "Window": "takeover",
    "cka": "similarity",
    "probe_beyond": "partial_probe",
    "phase_windows": "takeover",
    "probe_positions": "linear_probe",
    "probe_runs": "probe_run",
    "probe_transitions": "linear_probe",
    "step_windows": "takeover",
    "take_over": "takeover_run",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
