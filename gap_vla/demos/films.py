"""Frames of an episode out of a film that holds one episode or several."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from gap_vla.core.errors import EpisodeError

MOST_MISSING = 1.0
"""Seconds for which a picture may stand in the place of others that the film lacks."""


def film_frames(
    file: Path, steps: int, fps: float, start: float | None = None
) -> tuple[UInt8[np.ndarray, "T h w 3"], int]:
    """The picture of each step, and how many steps have that of another step because the film lacks theirs.

    Args:
        start: where the episode begins, in seconds from the film's beginning; None: the film holds it alone.
    """
    frames, times = [], []
    try:
        with av.open(str(file)) as film:
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            unit = float(stream.time_base or 1)
            first = max((stream.start_time or 0) * unit, 0) + (start or 0)
            last = first + steps / fps
            if start:
                film.seek(max(int((first - 1 / fps) / unit), 0), stream=stream)
            for number, frame in enumerate(film.decode(stream)):
                time = first + number / fps if frame.time is None else frame.time
                if start is not None and time > last + 0.5 / fps:
                    break
                if time > first - (0.5 / fps if start is None else 1.5 / fps):  # those before are not shown
                    frames.append(frame.to_ndarray(format="rgb24"))
                    times.append(time)
    except (av.FFmpegError, IndexError) as error:
        raise EpisodeError(f"{file} cannot be decoded ({error}); download it again") from None
    if start is None and len(frames) == steps:
        return np.stack(frames), 0
    wanted = first + np.arange(steps) / fps
    found = np.array(times)
    nearest = np.abs(found[None] - wanted[:, None]).argmin(axis=1) if len(found) else np.zeros(0, int)
    apart = np.abs(found[nearest] - wanted) if len(found) else np.array([np.inf])
    if apart.max() > max(MOST_MISSING, 1.5 / fps):
        said = f"no picture for step {int(apart.argmax())} of {steps}, {first + apart.argmax() / fps:.3g} s in the film"
        raise EpisodeError(f"{file}: {said}; download it again")
    return np.stack([frames[place] for place in nearest]), int((apart > 0.75 / fps).sum())
