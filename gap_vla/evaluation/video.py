"""Rollouts as mp4 files, failures first: they are the ones to look at."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gap_vla.core.whole import replacing

SHOWN_SIZE = 256
"""Small pictures are enlarged by a whole factor to about this height, so that their pixels stay what they are."""


def write_video(path: Path, frames: Sequence[UInt8[np.ndarray, "h w 3"]], *, fps: float = 20.0) -> Path:
    """Writes H.264, which every browser plays; under a temporary name first.

    Args:
        frames: at least one picture, all of the same size.
    """
    import imageio_ffmpeg

    if not frames:
        raise ValueError(f"{path}: no frames to write")
    height, width = frames[0].shape[:2]
    factor = max(1, SHOWN_SIZE // height)
    shown = f"{width * factor // 2 * 2}:{height * factor // 2 * 2}"  # H.264 wants even sides
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    codec = ["-vf", f"scale={shown}:flags=neighbor", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20"]
    with replacing(path) as temporary:
        # Not through imageio's writer: it runs Python in a forked child, which may hang beside JAX's threads.
        encoder = subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *codec, "-threads", "1", temporary],
            input=np.ascontiguousarray(frames).tobytes(),
            capture_output=True,
            start_new_session=True,  # Ctrl-C is for the evaluation; a video of 0.1 s is finished
        )
        if encoder.returncode:
            raise RuntimeError(f"{path}: ffmpeg failed: {encoder.stderr.decode(errors='replace').strip()}")
    return path


class VideoShelf:
    """At most `limit` videos in a folder; a failure takes the place of a success. Survives a resumed evaluation."""

    def __init__(self, directory: Path, limit: int, *, fps: float = 20.0) -> None:
        self._directory, self._limit, self._fps = directory, limit, fps

    @property
    def paths(self) -> list[Path]:
        """What is there, failures first, then by episode."""
        found = self._directory.glob("episode_*.mp4")
        return sorted(found, key=lambda path: (not path.stem.endswith("failure"), path.name))

    def wants(self, success: bool) -> bool:
        shelved = self.paths
        if len(shelved) < self._limit:
            return True
        return not success and any(path.stem.endswith("success") for path in shelved)

    def add(self, episode: int, success: bool, frames: Sequence[np.ndarray]) -> None:
        if not frames or not self.wants(success):
            return
        outcome = "success" if success else "failure"
        write_video(self._directory / f"episode_{episode:04d}_{outcome}.mp4", frames, fps=self._fps)
        for surplus in self.paths[self._limit :]:
            surplus.unlink()
