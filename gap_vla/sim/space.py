"""What collecting demonstrations takes of memory and disk."""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.resources import require_disk, require_memory
from gap_vla.sim.specs import task_spec

SIMULATOR = 300 * 2**20
"""Bytes of a process with a simulator and its renderer."""


def require_space(task: str, episodes: int, image_size: int, cameras: int, workers: int, folder: Path) -> None:
    """Refuses a collection that the machine cannot hold.

    Each worker is a simulator and keeps one episode's pictures; half of what is recorded reaches the disk, compressed.
    A demonstration has about half as many steps as the task's horizon, and pictures 3 bytes a pixel.

    Raises:
        ResourceError: with the numbers.
    """
    episode = task_spec(task).horizon / 2 * 3.0 * cameras * image_size**2
    processes = min(workers, episodes)
    require_memory({f"{processes} simulators": processes * (SIMULATOR + episode)}, "the workers, or the image size")
    require_disk({f"{episodes} demonstrations": 0.5 * episodes * episode}, folder, "their number, or the image size")
