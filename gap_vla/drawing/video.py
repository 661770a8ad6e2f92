"""Pictures as an mp4 file that every browser plays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import one_line
from gap_vla.core.outputs import OutputError, writing

ANSWER = 20.0
"""Seconds that ffmpeg may take to say its version."""


def write_video(
    path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], kind: str, *, fps: float = 20.0, scale: int = 1
) -> Path:
    """Writes H.264 under a temporary name, counts what arrived, and puts it in its place.

    Args:
        frames: at least one picture, all of the same size.
        kind: of output, see `gap_vla.core.outputs`.
        fps: pictures per second.
        scale: whole factor of enlargement; pixels stay what they are.

    Raises:
        OutputError: no pictures, no ffmpeg, something else stands there, or not all pictures arrived (a full disk).
    """
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise OutputError(f"{path}: no pictures, so no video")
    height, width = first.shape[:2]
    shown = f"{width * scale // 2 * 2}:{height * scale // 2 * 2}"  # H.264 wants even sides
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    codec = ["-vf", f"scale={shown}:flags=neighbor", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20"]
    ffmpeg, count = working_ffmpeg(path, OutputError, writes=True), 0
    with writing(path, kind) as temporary:
        # Not through imageio's writer: it runs Python in a forked child, which may hang beside JAX's threads.
        with subprocess.Popen(
            [ffmpeg, "-y", "-loglevel", "error", *source, *codec, "-threads", "1", temporary],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the command; a video of 0.1 s is finished
        ) as encoder:
            assert encoder.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # ffmpeg has ended and says why
                for frame in itertools.chain([first], rest):
                    encoder.stdin.write(np.ascontiguousarray(frame).tobytes())
                    count += 1
            _, said = encoder.communicate()
        if encoder.returncode:
            why = one_line(said.decode(errors="replace")) or f"it was ended, status {encoder.returncode}"
            raise OutputError(f"{path}: ffmpeg failed: {why}; if disk or limit (ulimit -f) is reached, make room")
        if not (arrived := pictures_in(temporary)) or arrived != count:
            raise OutputError(f"{path}: {arrived} of {count} pictures arrived; is the disk full?")
    return path


def working_ffmpeg(path: Path, error: type[UserError], *, writes: bool = False) -> str:
    """The program that videos are written and read with; raises `error`, for the video `path`, if there is none, or
    none that `writes` them."""
    import imageio_ffmpeg

    ffmpeg, about = "what was found", b""
    with contextlib.suppress(OSError, RuntimeError, subprocess.TimeoutExpired):
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
        about = _answer(ffmpeg, "-version")
    if not about.startswith(b"ffmpeg"):
        raise error(f"{path}: {ffmpeg} is no ffmpeg that answers; name another with IMAGEIO_FFMPEG_EXE")
    if writes and not _encodes(ffmpeg):
        raise error(f"{path}: {ffmpeg} is an ffmpeg without libx264; name another with IMAGEIO_FFMPEG_EXE")
    return ffmpeg


@functools.cache
def _encodes(ffmpeg: str) -> bool:
    """Whether it has the encoder that videos are written with, or does not say which it has."""
    try:
        known = _answer(ffmpeg, "-hide_banner", "-encoders")
    except (OSError, subprocess.TimeoutExpired):
        return True
    return not known.startswith(b"Encoders:") or b" libx264 " in known


def _answer(ffmpeg: str, *question: str) -> bytes:
    asked = [ffmpeg, *question]
    return subprocess.run(asked, capture_output=True, timeout=ANSWER, start_new_session=True).stdout


def packets(video: Path, *, every: bool = False) -> list[str]:
    """What ffmpeg says of each packet of a video (`-f framecrc`), after lines that begin with `#`; nothing is decoded.
    Empty for a file that is no video, or has lost its end. Times are those of the file; of the first film in it, or of
    `every` one.
    """
    import imageio_ffmpeg

    asked = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-copyts", "-i", f"file:{video}"]
    asked += ["-map", "0:v" if every else "0:v:0", "-c", "copy"]
    # with a terminal as its stdin it would listen to keys, and be stopped in the background; Ctrl-C is for the command
    told = subprocess.run(
        [*asked, "-f", "framecrc", "-"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    return [] if told.returncode else told.stdout.splitlines()


def pictures_in(path: Path) -> int:
    """How many pictures a video holds; 0 for a file that is none, or has lost its end."""
    return sum(not line.startswith("#") for line in packets(path))
