"""What made a run's outcome besides its configuration: versions of the code and the content of the data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gap_vla.rlds import EpisodeStore

TRAINING_VERSION = {"small": 2, "octo": 2}
"""By backend. Raise it whenever a change of code gives the same configuration and data other parameters or other
outcomes of rollouts. Runs get other directories then, and recorded cells of tables become stale.

2: normalisation statistics are those of the training episodes.
"""

_STEPS_AT_ONCE = 1024


def versions(backend: str, task: str) -> dict[str, Any]:
    """The versions of the code that a run of this backend (`small` or `octo`) depends on."""
    from gap_vla.phases import LABELS_VERSION
    from gap_vla.sim import task_spec

    return {
        "training_version": TRAINING_VERSION[backend],
        "labels_version": LABELS_VERSION,
        "pictures_version": task_spec(task).pictures_version,
    }


def digests(store: EpisodeStore) -> dict[str, str]:
    """Hashes of the values that a store holds, whatever its layout: `episodes` and, where there are any, `labels`.

    `episodes` covers pictures, proprioception, actions, the expert's phases, instructions and which split each episode
    is in; `labels` covers ρ and change points.
    """
    episodes, labels = hashlib.sha256(), hashlib.sha256()
    labelled = False
    for name in sorted(store.splits):
        split = store.splits[name]
        lengths = np.diff(split.offsets)
        texts = [split.languages[code] for code in split.language]
        episodes.update(f"{name} {lengths.tolist()} {texts}".encode())
        labels.update(f"{name} {lengths.tolist()}".encode())
        for key in sorted(split.fields):
            if key in ("rho", "change_point"):
                labelled = True
                _add(labels, key, split.fields[key], np.float32 if key == "rho" else np.bool_)
            elif key == "phase":
                episodes.update(f"phase {[split.phases[code] for code in split.fields[key]]}".encode())
            elif key in ("proprio", "action") or key.startswith("image_"):
                _add(episodes, key, split.fields[key], np.uint8 if key.startswith("image_") else np.float32)
    found = {"episodes": episodes.hexdigest()[:16]}
    return {**found, "labels": labels.hexdigest()[:16]} if labelled else found


def _add(total: Any, key: str, values: np.ndarray, dtype: type) -> None:
    total.update(f"{key} {values.shape[1:]}".encode())
    for start in range(0, len(values), _STEPS_AT_ONCE):
        total.update(np.ascontiguousarray(values[start : start + _STEPS_AT_ONCE], dtype).data)


def origin(backend: str, task: str, store: EpisodeStore) -> dict[str, Any]:
    """What a run on this store is made from; kept in its summary."""
    return {**versions(backend, task), **digests(store)}


def expected_origin(backend: str, task: str, store: Path) -> dict[str, Any]:
    """The same for a run that starts now; without the content of the data where the store has not been made yet."""
    account = store / "store.json"
    found = _digests_of(store, account.stat().st_mtime_ns) if account.exists() else {}
    return {**versions(backend, task), **found}


@lru_cache(maxsize=64)
def _digests_of(store: Path, modified: int) -> Mapping[str, str]:
    from gap_vla.rlds import EpisodeStore

    return digests(EpisodeStore.open(store))
