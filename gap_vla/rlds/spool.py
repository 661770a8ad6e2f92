"""Episodes of a one-pass iterable, kept on disk while they are needed by index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode

_OPTIONAL = ("phase", "rho", "change_point")


class _Spooled(Sequence[Episode]):
    def __init__(self, directory: Path, length: int) -> None:
        self._directory, self._length = directory, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(index)
        with np.load(self._directory / f"{index}.npz") as arrays:
            rest = json.loads(str(arrays["_rest"]))
            images = {key: arrays[key] for key in arrays.files if key.startswith("image_")}
            optional = {key: arrays[key] for key in _OPTIONAL if key in arrays.files}
            return Episode(images=images, proprio=arrays["proprio"], action=arrays["action"], **optional, **rest)


def spool(episodes: Iterable[Episode], directory: Path) -> Sequence[Episode]:
    """Writes each episode to `directory` as it comes; memory holds one at a time."""
    count = 0
    for count, episode in enumerate(episodes, start=1):
        rest = {
            "language_instruction": episode.language_instruction,
            "success": bool(episode.success),
            "metadata": dict(episode.metadata),
        }
        arrays: dict[str, Any] = {**episode.images, "proprio": episode.proprio, "action": episode.action}
        arrays |= {key: value for key in _OPTIONAL if (value := getattr(episode, key)) is not None}
        np.savez(directory / f"{count - 1}.npz", _rest=np.array(json.dumps(rest, default=str)), **arrays)
    return _Spooled(directory, count)
