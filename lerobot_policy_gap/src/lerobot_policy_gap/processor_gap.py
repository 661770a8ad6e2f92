"""The processors of `gap_act` are those of `act`, and so on. LeRobot looks them up by name in this module."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """`make_gap_act_pre_post_processors` and so on; a policy's libraries are imported when it is asked for."""
    policy = name.removeprefix("make_gap_").removesuffix("_pre_post_processors")
    if name != f"make_gap_{policy}_pre_post_processors":
        raise AttributeError(name)
    module = importlib.import_module(f"lerobot.policies.{policy}.processor_{policy}")
    return getattr(module, f"make_{policy}_pre_post_processors")
