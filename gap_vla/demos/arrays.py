"""Rows, pictures, instructions and truth values of an Episode, out of whatever array somebody stored them in."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gap_vla.core.errors import EpisodeError, UserError


@contextlib.contextmanager
def reading(what: object) -> Iterator[None]:
    """An error in reading a file becomes an EpisodeError that says what was read."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EpisodeError(f"{what} cannot be read ({error}); is the file whole?") from None


def as_rows(value: Any, where: str) -> Float[np.ndarray, "T width"]:
    """One row of numbers a step; one number a step becomes one column."""
    rows = np.asarray(value)
    if rows.dtype.kind not in "biuf" or rows.ndim == 0 or sum(size > 1 for size in rows.shape[1:]) > 1:
        raise EpisodeError(f"{where} is {rows.dtype}{[*rows.shape]}, not a row of numbers a step; name another array")
    with np.errstate(over="ignore"):  # what is infinite in float32 is found by `Episode.validate`
        return rows.reshape(len(rows), -1).astype(np.float32)


def as_frames(value: Any, where: str) -> UInt8[np.ndarray, "T h w 3"]:
    """Pictures with their channels last; grey ones become RGB, an alpha channel is left out, encoded ones are decoded.

    Anything else stays as it is, for `Episode.validate`.
    """
    if isinstance(value, list) or (value.ndim <= 2 and (value.dtype == object or value.dtype.kind in "uS")):
        pictures: list[np.ndarray] = []
        for step, one in enumerate(value):
            with reading(f"{where}, step {step}"):
                pictures.append(decoded(one.tobytes() if isinstance(one, np.ndarray) else one))
                if pictures[-1].shape != pictures[0].shape:
                    raise ValueError(f"its shape is {pictures[-1].shape}, that of the first one {pictures[0].shape}")
        return np.stack(pictures)
    frames = np.asarray(value)
    if frames.ndim == 4 and frames.shape[1] in (1, 3) and frames.shape[-1] not in (1, 3, 4):
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.ndim == 4 and frames.shape[-1] == 1:
        frames = frames.repeat(3, axis=3)
    if frames.ndim == 4 and frames.shape[-1] == 4:
        frames = frames[..., :3]
    return np.ascontiguousarray(frames)


def decoded(content: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """A PNG, JPEG or WebP as RGB, turned as its EXIF says."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as picture:  # none that starts a program
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def resized(frames: UInt8[np.ndarray, "T h w 3"], size: tuple[int, int] | None) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames of another height and width (Lanczos, antialiased), or unchanged."""
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    from PIL import Image

    height, width = size
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames])


def as_instruction(value: Any) -> str | tuple[str, ...]:
    """An instruction out of text, bytes, or an array of either: one text, or a text a step if they differ."""
    if isinstance(value, np.ndarray | list | tuple):
        texts = tuple(as_text(one) for one in np.asarray(value, object).reshape(-1))
        return texts[0] if len({*texts}) == 1 else texts or ""
    return as_text(value)


def as_text(value: Any) -> str:
    """One text; None is the empty one."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def as_names(value: Any) -> np.ndarray:
    """The name of a phase a step, as an array of text."""
    return np.array([as_text(one) for one in np.asarray(value).reshape(-1)], str)


def as_truth(value: Any) -> bool:
    """What a file says of success: a truth value, a number, or a word; of one a step, the last one counts."""
    last = np.asarray(value).reshape(-1)[-1:].tolist()
    if last and isinstance(last[0], str | bytes):
        return as_text(last[0]).strip().lower() in ("true", "yes", "1", "success", "t", "y")
    return bool(last and last[0])
