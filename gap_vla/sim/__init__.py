"""Simulated manipulation tasks with scripted experts that know their phases, and rendering that costs milliseconds.

Light to import: the simulators are loaded by the first call of `make`. Importing this package registers the tasks
with gymnasium (`gymnasium.make("gap_vla/Threading-v0")`).
"""

from gap_vla.core.lazy import exports
from gap_vla.sim.specs import register_with_gymnasium

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "RenderingError": "rendering_backend",
        "require_rendering": "rendering_backend",
        "TASK_NAMES": "specs",
        "TaskSpec": "specs",
        "UnknownNameError": "specs",
        "task_spec": "specs",
        "VARIANT_NAMES": "variants",
        "Variant": "variants",
        "variant_spec": "variants",
        "collect_demos": "collection",
        "ActionError": "environment",
        "SimEnv": "environment",
        "make": "environment",
        "Expert": "expert",
        "make_expert": "expert",
    },
)

register_with_gymnasium()
