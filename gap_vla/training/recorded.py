"""What named demonstrations say of how they were recorded, where their policy will be rolled out otherwise."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.foreign import Section
from gap_vla.core.typed_config import ConfigError
from gap_vla.demos.hdf5_members import attributes_of_data, simulator_of
from gap_vla.sim import task_spec
from gap_vla.training.config import Experiment

_PLACES = re.compile(r"(?!.*(?:delta|vel|d[xyz]))(?:[xyz]|(.*_)?(motor|joint)(_?\w+)?|.*\.pos)", re.IGNORECASE)
"""Names of actions that are places of the hand, or of joints; the tasks' own are differences of the hand's pose."""


def notes_on_demos(config: Experiment) -> list[str]:
    """Lines on `demos.path` if rollouts of the task have another number of steps a second, or take other actions."""
    if not config.eval.episodes:
        return []
    rates, absolute = recorded_as(config)
    notes, hz = [], task_spec(config.task).control_hz
    if any(abs(rate - hz) > hz / 100 for rate in rates.values()):
        key, rate = next(iter(rates.items()))
        pace = f"{config.demos.path} has {rate:g} steps a second ({key}), rollouts of {config.task} {hz}"
        notes.append(f"note: {pace}: the policy will act at another pace than it was shown")
    if absolute:
        ours = f"rollouts of {config.task} take differences of the hand's pose"
        notes.append(f"note: {config.demos.path}: {absolute}; {ours}")
    return notes


def recorded_as(config: Experiment) -> tuple[dict[str, float], str]:
    """What `demos.path` says of its steps a second, by key, and, in words, of actions that are no differences.

    Raises:
        ConfigError: a file that says two rates.
    """
    path = Path(config.demos.path)
    if not config.demos.path or config.data.rlds:
        return {}, ""
    rates, absolute = _of_file(path) if path.is_file() else _of_lerobot(path, config.demos.kind)
    if len({*rates.values()}) > 1:
        both = " and ".join(f"{key} {rate:g}" for key, rate in rates.items())
        raise ConfigError(f"{path} says {both}, which cannot both be its steps a second; correct one of them")
    return rates, absolute


def _of_file(path: Path) -> tuple[dict[str, float], str]:
    said = attributes_of_data(path)
    settings = simulator_of(said).get("env_kwargs")
    settings = settings if isinstance(settings, Mapping) else {}
    found = {"control_hz": said.get("control_hz"), "control_freq": settings.get("control_freq")}
    rates = {
        key: float(rate) for key, rate in found.items() if isinstance(rate, numbers.Real) and 0 < float(rate) < 1e5
    }
    absolute = next(filter(None, map(_absolute, _controllers(settings.get("controller_configs")))), "")
    return rates, f"its actions are absolute ({absolute})" if absolute else ""


def _controllers(said: Any) -> Iterator[Mapping[str, Any]]:
    """robosuite's settings of each arm: one for all, a list, or, since 1.5, by parts of the body."""
    for one in said if isinstance(said, list) else [said]:
        if isinstance(one, Mapping):
            yield one
            parts = one.get("body_parts")
            yield from (
                (part for part in parts.values() if isinstance(part, Mapping)) if isinstance(parts, Mapping) else ()
            )


def _absolute(controller: Mapping[str, Any]) -> str:
    if controller.get("control_delta") is False:
        return "control_delta is false"
    return "input_type is absolute" if controller.get("input_type") == "absolute" else ""


def _of_lerobot(path: Path, kind: str) -> tuple[dict[str, float], str]:
    if kind != "lerobot":
        return {}, ""
    info = Section.read(path / "meta" / "info.json", ConfigError)
    names: Any = info.section("features", {}).section("action", {}).values.get("names")
    if isinstance(names, Mapping):  # as {"motors": [...]}
        names = next(iter(names.values()), ())
    places = [name for name in names if _PLACES.fullmatch(str(name))] if isinstance(names, list) else []
    absolute = f"its actions are called {', '.join(map(str, places[:3]))}" if len(places) > 2 else ""
    return {"fps": info.finite("fps", 0.01, 1e5)}, absolute
