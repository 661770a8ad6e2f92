"""From demonstrations to success rates: one configuration, one run and one loop, whatever backend trains the policy."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from gap_vla.core.identity import flat
from gap_vla.sim import TASK_NAMES
from gap_vla.training.config import Experiment

BACKENDS = (("octo", "FinetuneConfig"), ("torch", "SmallConfig"))
"""A backend is a subclass of `Experiment` in a file of this folder, and a pair here."""


def backend_of(values: Mapping[str, Any], expected: type[Experiment] | None = None) -> type[Experiment]:
    """The backend that has the most keys of a configuration; of several, the `expected` one. Loads no JAX or torch."""
    keys = [key for key, _ in flat(values)]

    def known(kind: type[Experiment]) -> int:
        own = dict(flat(kind(task=TASK_NAMES[0]).to_dict()))
        return sum(key in own for key in keys)

    kinds = (getattr(importlib.import_module(f"{__name__}.{file}"), name) for file, name in BACKENDS)
    return max(kinds, key=lambda kind: (known(kind), kind is expected))
