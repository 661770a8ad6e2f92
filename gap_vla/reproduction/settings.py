"""Whether a recorded cell was made with the settings of today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gap_vla.identity import digest

NO_PART_OF_THE_RESULT = frozenset(
    "runs data.root eval.workers eval.videos train.log_every train.save_every train.threads train.device".split()
)
"""Folders, workers, rhythm and device: they leave a cell what it is."""


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of everything that can change a result; sequences as lists, as JSON has them."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        elif name not in NO_PART_OF_THE_RESULT:
            yield name, list(value) if isinstance(value, tuple) else value


def training_length(config: Mapping[str, Any]) -> int:
    """Passes over the data where the configuration counts those, otherwise steps; comparable within a profile."""
    train = config.get("train", {})
    return int(train.get("epochs") or train.get("steps") or 0)


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of everything in a configuration that can change its result."""
    return digest(dict(flat(config)), 12)


def same_settings(recorded: Mapping[str, Any], present: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether both configurations mean the same experiment.

    An option that did not exist when the cell was recorded must have its default now: an addition leaves recorded
    cells valid, a changed value or a vanished option does not.

    >>> same_settings({"steps": 5}, {"steps": 5, "new": 1}, {"new": 1})
    True
    >>> same_settings({"steps": 5}, {"steps": 5, "new": 2}, {"new": 1})
    False
    """
    then, now, usual = dict(flat(recorded)), dict(flat(present)), dict(flat(defaults))
    added = now.keys() - then.keys()
    if then.keys() - now.keys() or any(key not in usual or now[key] != usual[key] for key in added):
        return False
    return all(now[key] == value for key, value in then.items())
