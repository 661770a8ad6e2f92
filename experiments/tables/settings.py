"""Whether a recorded cell was made with the settings, the code and the data of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gap_vla.core.identity import digest
from gap_vla.training.settings import of_result


def training_length(config: Mapping[str, Any]) -> int:
    """Passes over the data where the configuration counts those, otherwise steps; comparable within a profile."""
    train = config.get("train", {})
    return int(train.get("epochs") or train.get("steps") or 0)


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of everything in a configuration that can change its result."""
    return digest(of_result(config), 12)


def changed_settings(recorded: Mapping[str, Any], present: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations, in words; empty: they mean the same experiment.

    An option that did not exist when the cell was recorded must have its default now: an addition leaves recorded
    cells valid, a changed value or a vanished option does not.

    >>> changed_settings({"steps": 5}, {"steps": 5, "new": 1}, {"new": 1})
    []
    >>> changed_settings({"steps": 5, "old": 1}, {"steps": 6, "new": 2}, {"new": 1})
    ['steps 5 then, 6 now', 'old 1 then, not there now', 'new not there then, 2 now']
    """
    then, now, usual = of_result(recorded), of_result(present), of_result(defaults)
    if not then:
        return ["its settings were not recorded"]
    found = [
        f"{key} {value} then, {now.get(key, 'not there')} now" for key, value in then.items() if now.get(key) != value
    ]
    added = [key for key in now if key not in then and (key not in usual or now[key] != usual[key])]
    return [*found, *(f"{key} not there then, {now[key]} now" for key in added)]


ORIGIN = {
    "training_version": "version of the training code",
    "pictures_version": "version of the pictures",
    "episodes": "content of the demonstrations",
    "labels_version": "version of the labels",
    "labels": "content of the labels",
}
"""Keys of `gap_vla.training.origin`, and what they are called."""


def changed_origin(recorded: Mapping[str, Any], present: Mapping[str, Any], reads_labels: bool) -> list[str]:
    """What differs between the origins of two outcomes, in words; empty: neither code nor data differ.

    Labels count only where the outcome depends on them; the data's content, only where it is known now.

    >>> changed_origin({"training_version": 1, "labels": "a"}, {"training_version": 2, "labels": "b"}, False)
    ['version of the training code 1 then, 2 now']
    >>> changed_origin({}, {"training_version": 2}, True)
    ['recorded before the versions of code and data were']
    """
    if present and not recorded:
        return ["recorded before the versions of code and data were"]
    asked = [key for key in ORIGIN if key in present and (reads_labels or not key.startswith("labels"))]
    return [
        f"{ORIGIN[key]} {recorded.get(key, 'not recorded')} then, {present[key]} now"
        for key in asked
        if recorded.get(key) != present[key]
    ]
