"""Telling datasets apart: which settings differ, and the content of episodes that have no file to name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Readable list of the settings that differ, `name: found → wanted`."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        lines: list[str] = []
        for key in sorted({*found, *wanted}):
            lines += differences(found.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else str(key))
        return lines
    return [] if found == wanted else [f"{prefix}: {found} → {wanted}"]


def content_hash(episodes: Sequence[Episode]) -> str:
    """Hash of everything in the episodes, for data that come from memory and have no file to name."""
    total = hashlib.sha256()
    for episode in episodes:
        arrays = {**episode.images, "proprio": episode.proprio, "action": episode.action}
        arrays |= {k: v for k in ("rho", "change_point", "phase") if (v := getattr(episode, k)) is not None}
        for key in sorted(arrays):
            value = np.ascontiguousarray(arrays[key])
            total.update(f"{key}{value.dtype}{value.shape}".encode())
            total.update(value.tobytes())
        total.update(episode.language_instruction.encode())
    return total.hexdigest()
