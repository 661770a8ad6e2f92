"""What collecting demonstrations takes of memory and disk."""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.resources import require_disk, require_memory
from gap_vla.sim.specs import task_spec

SIMULATOR = 300 * 2**20
"""Bytes of a process with a simulator and its renderer."""


def episode_bytes(task: str, image_size: int, cameras: int) -> float:
    """Pictures of one demonstration, 3 bytes a pixel; it has about half as many steps as the task's horizon."""
    return task_spec(task).horizon / 2 * 3.0 * cameras * image_size**2


def require_space(task: str, episodes: int, image_size: int, cameras: int, workers: int, folder: Path) -> None:
    """Refuses a collection that the machine cannot hold.

    Each worker is a simulator and keeps one episode's pictures; half of what is recorded reaches the disk, compressed.

    Raises:
        ResourceError: with the numbers.
    """
    episode = episode_bytes(task, image_size, cameras)
    processes = min(workers, episodes)
    require_memory({f"{processes} simulators": processes * (SIMULATOR + episode)}, "the workers, or the image size")
    require_disk({f"{episodes} demonstrations": 0.5 * episodes * episode}, folder, "their number, or the image size")
