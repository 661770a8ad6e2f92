"""Pictures as an mp4 file that every browser plays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gap_vla.core.errors import UserError
from gap_vla.core.files import replacing


def write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], *, fps: float = 20.0) -> Path:
    """Writes H.264.

    PyAV encodes in this process: imageio's writer forks, and a fork may hang beside JAX's threads.

    Args:
        frames: at least one picture, all of the same size; an odd side loses its last row or column.
        fps: pictures per second.
    """
    import av

    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise UserError(f"{path}: no pictures, so no video")
    height, width = (side // 2 * 2 for side in first.shape[:2])  # H.264 wants even sides
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in itertools.chain([first], rest):
            even = np.ascontiguousarray(frame[:height, :width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        file.mux(stream.encode())
    return path
