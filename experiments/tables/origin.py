"""What an outcome is made from besides its settings: versions of the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORIGIN = {
    "training_version": "version of the training code",
    "pictures_version": "version of the pictures",
    "labels_version": "version of the labels",
}
"""Keys of `gap_vla.training.stages`, and what they are called."""


def changed_origin(recorded: Mapping[str, Any], present: Mapping[str, Any], reads_labels: bool) -> list[str]:
    """What differs between the origins of two outcomes, in words. The version of the labels counts only where the
    outcome depends on labels.

    >>> changed_origin({"training_version": 1}, {"training_version": 2, "labels_version": 8}, False)
    ['version of the training code 1 then, 2 now']
    >>> changed_origin({}, {"training_version": 2}, True)
    ['recorded before the versions of code and data were']
    """
    if present and not recorded:
        return ["recorded before the versions of code and data were"]
    asked = [key for key in ORIGIN if key in present and (reads_labels or key != "labels_version")]
    return [
        f"{ORIGIN[key]} {recorded.get(key, 'not recorded')} then, {present[key]} now"
        for key in asked
        if recorded.get(key) != present[key]
    ]
