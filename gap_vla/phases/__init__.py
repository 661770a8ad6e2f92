"""Phases: proprioception in, change points and ρ out (M1-M5). Needs numpy, numba and torch; loads them when used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Motion": "motion",
    "MotionError": "motion",
    "DeadBand": "motion",
    "default_dead_band": "noise",
    "default_penalty": "objective",
    "stroke_starts": "objective",
    "segment": "segmentation",
    "segment_all": "segmentation",
    "segment_cost": "segmentation",
    "MotionCost": "ruptures_cost",
    "PhaseEstimator": "estimator",
    "annotate": "annotation",
    "Annotation": "annotation",
    "Annotator": "annotation",
    "load_annotator": "annotation",
    "METHODS": "methods",
    "LABELS_VERSION": "methods",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
