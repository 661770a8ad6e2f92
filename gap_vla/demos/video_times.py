"""When the frames of a video are shown, read from its packets: nothing is decoded."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gap_vla.core.episode import EpisodeError
from gap_vla.drawing.video import packets


def require_even(video: Path, first: int, length: int, where: str) -> None:
    """Raises EpisodeError if a frame was lost among those of an episode, so that the next ones are of other steps.

    Args:
        first, length: the episode's frames in the order in which they are shown.
        where: video and episode, for the message.
    """
    times = _times(video, video.stat().st_mtime_ns)[first : first + length]
    gaps = np.diff(times)
    if len(gaps) and (odd := np.abs(gaps / np.median(gaps) - 1) >= 0.5).any():
        step = int(odd.argmax())
        said = f"frame {step + 1} comes {gaps[step]:.3g} s after frame {step}, others {np.median(gaps):.3g} s"
        raise EpisodeError(f"{where}: frames were lost: {said}; download it again")


@functools.lru_cache(16)
def _times(video: Path, changed: int) -> Float[np.ndarray, " frames"]:
    """Seconds, rising; none where the container keeps no times."""
    unit, shown = 0.0, []
    for line in packets(video):
        if line.startswith("#tb 0:"):
            above, below = line.partition(":")[2].split("/")
            unit = int(above) / int(below)
        elif not line.startswith("#"):
            shown.append(line.split(",")[2].strip())
    kept = unit and all(time.lstrip("-").isdecimal() for time in shown)
    return np.sort(np.array(shown, np.float64)) * unit if kept else np.zeros(0)
