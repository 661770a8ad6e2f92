"""Makes the tasks known to gymnasium under `gap_vla/<Task>-v0`."""

from __future__ import annotations

import importlib.util

from gap_vla.sim.specs import TASK_NAMES, task_spec


def register_with_gymnasium() -> None:
    """Registers every task once; without gymnasium (no `sim` extra) there is nothing to register with."""
    if importlib.util.find_spec("gymnasium") is None:
        return
    import gymnasium

    for name in TASK_NAMES:
        gymnasium_id = task_spec(name).gymnasium_id
        if gymnasium_id not in gymnasium.registry:
            # the environment ends its own episodes: gymnasium's time limit would count them a second time
            gymnasium.register(gymnasium_id, "gap_vla.sim.environment:make", kwargs={"name": name})
