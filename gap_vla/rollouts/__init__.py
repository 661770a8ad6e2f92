"""Policies acting in simulators: success counted with intervals, and diagnosed."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Policy": "policy",
    "PolicyError": "policy",
    "PolicyUnavailable": "policy",
    "RandomPolicy": "policy",
    "ExpertPolicy": "policy",
    "ReplayPolicy": "policy",
    "OctoPolicy": "octo_policy",
    "EvaluationError": "record",
    "EpisodeRecord": "record",
    "Task": "task",
    "SimTask": "task",
    "sim_task": "task",
    "Limits": "settings",
    "evaluate": "rollout",
    "layout_seed": "rollout",
    "summarize": "summary",
    "wilson": "statistics",
    "clopper_pearson": "statistics",
    "mcnemar": "statistics",
    "paired_difference": "statistics",
    "PairedDifference": "statistics",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
