"""Rollouts as mp4 files, failures first: they are the ones to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gap_vla.drawing.video import write_video

SHOWN_SIZE = 256
"""Small pictures are enlarged by a whole factor to about this height, so that their pixels stay what they are."""


class VideoShelf:
    """At most `limit` videos in a folder: a failure takes the place of a success, but one success stays where there is
    room for two. Survives a resumed evaluation."""

    def __init__(self, directory: Path, limit: int, *, fps: float = 20.0) -> None:
        self._directory, self._limit, self._fps = directory, limit, fps

    @property
    def paths(self) -> list[Path]:
        """What is there, failures first, then by episode."""
        found = self._directory.glob("episode_*.mp4")
        return sorted(found, key=lambda path: (not path.stem.endswith("failure"), path.name))

    def wants(self, success: bool) -> bool:
        shelved = self.paths
        won = sum(path.stem.endswith("success") for path in shelved)
        return len(shelved) < self._limit or (not won and self._limit > 1 if success else won > (self._limit > 1))

    def add(self, episode: int, success: bool, frames: Sequence[np.ndarray]) -> None:
        if not frames or not self.wants(success):
            return
        outcome = "success" if success else "failure"
        path = self._directory / f"episode_{episode:04d}_{outcome}.mp4"
        write_video(path, frames, "rollout", fps=self._fps, scale=max(1, SHOWN_SIZE // frames[0].shape[0]))
        shelved = self.paths
        lost = [path for path in shelved if path.stem.endswith("failure")]
        won = shelved[len(lost) :]
        lost = lost[: self._limit - bool(won and self._limit > 1)]
        for surplus in set(shelved) - {*lost, *won[: self._limit - len(lost)]}:
            surplus.unlink()
