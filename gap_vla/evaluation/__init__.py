"""Evaluation: success rates with intervals, paired comparisons, policies served and called over the network."""

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
    "load_checkpoint": "loading",
    "load_policy": "loading",
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
    "Cell": "compare",
    "render": "compare",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
