"""GAP for Octo and other VLAs: phases in demonstrations, RLDS with ρ, proprioceptive gradients scaled by (1 - ρ).

from gap_vla import Episode, annotate   # ρ of demonstrations
from gap_vla import attach              # a slower state branch, or GAP, on a torch policy
"""

import importlib
from typing import Any

__version__ = "0.3.0"

_FROM = {
    "attach": "gap_vla.adjustment.torch",
    "annotate": "gap_vla.phases.annotation",
    "Episode": "gap_vla.core.episode",
}


def __getattr__(name: str) -> Any:
    """Loads torch, or what a name needs, when that name is asked for."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FROM[name]), name)
