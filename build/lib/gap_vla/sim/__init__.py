"""Simulated manipulation tasks with scripted experts that know their phases, and rendering that costs milliseconds.

Light to import: the simulators are loaded by the first call of `make`. Importing this package registers the tasks
with gymnasium (`gymnasium.make("gap_vla/Threading-v0")`).
"""

from gap_vla.core.lazy import exports
from gap_vla.sim.specs import register_with_gymnasium

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "rendering_backend": "RenderingError require_rendering",
        "specs": "TASK_NAMES TaskSpec UnknownNameError task_spec",
        "variants": "VARIANT_NAMES Variant variant_spec",
        "collection": "collect_demos",
        "environment": "ActionError SimEnv make",
        "expert": "Expert make_expert",
    },
)

register_with_gymnasium()
