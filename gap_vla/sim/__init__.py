"""Simulated manipulation tasks with scripted experts that know their phases, and rendering that costs milliseconds.

    import gap_vla.sim as sim

    env = sim.make("threading", image_size=64)
    observation, info = env.reset(seed=0)
    expert = sim.make_expert(env, seed=0)
    observation, reward, terminated, truncated, info = env.step(expert.act())

The simulators are loaded by the first call of `make`. Importing this package registers the tasks with gymnasium
(`gymnasium.make("gap_vla/Threading-v0")`).
"""

import importlib
from typing import Any

from gap_vla.sim.rendering import require_rendering
from gap_vla.sim.specs import TASK_NAMES, TaskSpec, register_with_gymnasium, task_spec
from gap_vla.sim.variants import VARIANT_NAMES, Variant, variant_spec

__all__ = [
    "TASK_NAMES",
    "VARIANT_NAMES",
    "TaskSpec",
    "Variant",
    "collect_demos",
    "make",
    "make_expert",
    "require_rendering",
    "task_spec",
    "variant_spec",
]


_OF_SIMULATORS = {
    "SimEnv": "environment",
    "make": "environment",
    "Expert": "expert",
    "make_expert": "expert",
    "collect_demos": "collection",
}
"""Names whose modules load gymnasium or a simulator."""


def __getattr__(name: str) -> Any:
    if name not in _OF_SIMULATORS:
        raise AttributeError(f"gap_vla.sim has no {name}")
    return getattr(importlib.import_module(f"gap_vla.sim.{_OF_SIMULATORS[name]}"), name)


register_with_gymnasium()
