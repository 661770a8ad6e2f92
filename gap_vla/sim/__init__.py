"""Simulated manipulation tasks with scripted experts that know their phases, and rendering that costs milliseconds.

Light to import: the simulators are loaded by the first call of `make`. Importing this package registers the tasks
with gymnasium (`gymnasium.make("gap_vla/Threading-v0")`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gap_vla.sim.registration import register_with_gymnasium
from gap_vla.sim.rendering_backend import RenderingError, require_rendering
from gap_vla.sim.specs import TASK_NAMES, TaskSpec, UnknownNameError, task_spec
from gap_vla.sim.variants import VARIANT_NAMES, Variant, variant_spec

if TYPE_CHECKING:
    from gap_vla.sim.collection import collect_demos
    from gap_vla.sim.environment import ActionError, SimEnv, make
    from gap_vla.sim.expert import Expert, make_expert

__all__ = [
    "TASK_NAMES",
    "VARIANT_NAMES",
    "ActionError",
    "Expert",
    "RenderingError",
    "SimEnv",
    "TaskSpec",
    "UnknownNameError",
    "Variant",
    "collect_demos",
    "make",
    "make_expert",
    "require_rendering",
    "task_spec",
    "variant_spec",
]
_LAZY = {
    "collect_demos": "gap_vla.sim.collection",
    "ActionError": "gap_vla.sim.environment",
    "SimEnv": "gap_vla.sim.environment",
    "make": "gap_vla.sim.environment",
    "Expert": "gap_vla.sim.expert",
    "make_expert": "gap_vla.sim.expert",
}

register_with_gymnasium()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
