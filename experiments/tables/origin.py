"""What an outcome is made from besides its settings: versions of the code, and content of the data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from gap_vla.rlds import EpisodeStore
from gap_vla.training.stages import digests, versions

ORIGIN = {
    "training_version": "version of the training code",
    "pictures_version": "version of the pictures",
    "episodes": "content of the demonstrations",
    "labels_version": "version of the labels",
    "labels": "content of the labels",
    "mixture": "content of the mixture",
}
"""Keys of `gap_vla.training.stages`, and what they are called."""


def changed_origin(recorded: Mapping[str, Any], present: Mapping[str, Any], reads_labels: bool) -> list[str]:
    """What differs between the origins of two outcomes, in words. Labels count only where the outcome depends on them,
    the data's content only where it is known now.

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


def expected_origin(backend: str, task: str, *stores: Path) -> dict[str, Any]:
    """What a run that starts now is made from; without the content of the data where a store has not been made yet."""
    accounts = [store / "store.json" for store in stores]
    if not all(account.exists() for account in accounts):
        return versions(backend, task)
    first, *others = (_digests_of(a.parent, a.stat().st_mtime_ns) for a in accounts)
    return {**versions(backend, task), **first, **({"mixture": others} if others else {})}


@lru_cache(maxsize=64)
def _digests_of(store: Path, modified: int) -> Mapping[str, str]:
    return digests(EpisodeStore.open(store))
