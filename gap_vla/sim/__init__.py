"""Simulated manipulation tasks with scripted experts that know their phases, and rendering that costs milliseconds.

Light to import: the simulators are loaded by the first call of `make`. Importing this package registers the tasks
with gymnasium (`gymnasium.make("gap_vla/Threading-v0")`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gap_vla.core.lazy import exports
from gap_vla.sim.rendering_backend import RenderingError, require_rendering
from gap_vla.sim.specs import TASK_NAMES, TaskSpec, UnknownNameError, register_with_gymnasium, task_spec
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

register_with_gymnasium()

__getattr__ = exports(
    __name__,
    {
        "collect_demos": "collection",
        "ActionError": "environment",
        "SimEnv": "environment",
        "make": "environment",
        "Expert": "expert",
        "make_expert": "expert",
    },
)[1]
