"""Fields of an Episode out of somebody's arrays, with errors that name the place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import LARGEST_ACTION, EpisodeError, nameless
from gap_vla.core.foreign import finite, one_line, refusing
from gap_vla.demos.content import listed

IMAGE_NAMES = ("image_primary", "image_wrist")

_CAMERA = re.compile(r"image_\w+", re.ASCII)

ACTION_LIMIT = 1.0
"""An Episode's actions lie in [-1, 1] unless the reader's option `action_limit` says otherwise."""

_TRUE, _FALSE = ("true", "yes", "1", "success", "t", "y"), ("false", "no", "0", "failure", "f", "n")


def as_rows(value: Any, where: str) -> np.ndarray:
    """float32[T, width]. Raises EpisodeError: no such numbers, or one that is not finite in float32."""
    rows = np.asarray(value)
    if rows.dtype == object and rows.ndim == 2:  # as nulls make it
        for step, column in [place for place in np.ndindex(rows.shape) if rows[place] is None][:1]:
            raise EpisodeError(f"{where} is missing at step {step}, column {column}; repair or drop the episode")
    if rows.ndim != 2 or not rows.shape[1] or rows.dtype.kind not in "fiu":
        raise EpisodeError(
            f"{where} is {rows.dtype}{list(rows.shape)}, not numbers of shape (T, width); store one row per step"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        single = rows.astype(np.float32)
    if not np.isfinite(single).all():
        step, column = np.argwhere(~np.isfinite(single))[0]
        raise EpisodeError(
            f"{where} is NaN or infinite at step {step}, column {column} ({rows[step, column]}, in float32); repair or "
            "drop the episode"
        )
    return single


def as_actions(value: Any, limit: float | None, where: str) -> np.ndarray:
    """float32[T, A] of numbers in [-limit, limit], 0.1 % more for rounding; None: in the robot's own units.

    Raises EpisodeError: as `as_rows`, or a number beyond the limit.
    """
    actions = as_rows(value, where)
    beyond = np.abs(actions) > (np.inf if limit is None else limit * 1.001)
    if beyond.any():
        step, column = np.argwhere(beyond)[0]
        raise EpisodeError(
            f"{where} is {actions[step, column]:g} at step {step}, column {column}; actions lie in [-{limit:g}, "
            f"{limit:g}]: rescale them, or build a dataset with --reader action_limit=… that states their largest value"
        )
    return actions


def checked_limit(limit: Any) -> float | None:
    """The reader's option `action_limit`. Raises EpisodeError: neither a positive number nor null."""
    return None if limit is None else finite("action_limit (null: any)", limit, 1e-12, LARGEST_ACTION, EpisodeError)


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of these endings, in large or small letters, by name; none that are hidden.

    Raises EpisodeError: others lie in folders of it, and would be left out; or it is an RLDS dataset, or part of one.
    """
    every = list(listed(folder))
    if found := sorted(path for path in every if path.parent == folder and ".tfrecord" in path.name):
        if (folder / "features.json").is_file():
            raise EpisodeError(f"{folder} is an RLDS dataset already; annotate it, or train on it as it is (data.rlds)")
        raise EpisodeError(
            f"{folder} holds {found[0].name}: it is an RLDS dataset that lacks features.json, as a killed conversion "
            "leaves it; give that command again"
        )
    of_these = (path for path in every if path.suffix.lower() in suffixes)
    found = sorted(of_these, key=lambda path: (path.parent != folder, path))
    if found and found[0].parent == folder != found[-1].parent:
        raise EpisodeError(f"{folder}: {found[-1]} lies in a folder of its own; put all demonstrations into one folder")
    return [path for path in found if path.parent == folder]


def tell_others(folder: Path, files: Collection[Path], what: str) -> None:
    """Says what lies beside the `files` of a folder, in words of what is done to these alone."""
    if more := sorted(path.name for path in {*folder.iterdir()} - {*files} if path.name[0] != "."):
        kinds = " and ".join(sorted({path.suffix[1:].lower() for path in files}))
        but = f"nor anything else but the {kinds} ({len(more)} in all)"
        print(f"note: {one_line(more[0], 60)} of {folder} is not {what}, {but}", flush=True)


def require_cameras(names: Sequence[str], where: str) -> None:
    """Raises EpisodeError: a name is no camera's, and readers of a dataset would take it for something else; or it is
    there twice, and one would be lost.
    """
    for name in names:
        if not _CAMERA.fullmatch(name):
            shown = one_line(repr(name), 60)
            named = (
                "an array of the source first, then its camera: image_ and"
                if "image_keys" in where
                else "it image_ and"
            )
            raise EpisodeError(f"{where}: camera {shown}; name {named} letters, digits or underscores")
        if names.count(name) > 1:
            raise EpisodeError(f"{where}: {name} is there twice; say with image_keys which pictures it is")


def as_names(value: Any, where: str) -> np.ndarray:
    """A phase's name per step. Raises EpisodeError: it is no list of names."""
    if isinstance(value, list | tuple) and (lost := nameless(value)):
        raise EpisodeError(f"{where} is {value[lost[0]]} at step {lost[0]}; give each step a name")
    names = np.asarray(value)
    if names.ndim != 1 or names.dtype.kind not in "USiub":
        raise EpisodeError(f"{where} is {names.dtype}{list(names.shape)}, not one name per step; store text (T)")
    with refusing(where, "store text of UTF-8", EpisodeError):
        return np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names.astype(str)


def as_text(value: Any, where: str) -> str:
    """An instruction. Raises EpisodeError: something other than text."""
    text = _plain(value)
    if not isinstance(text, str):
        raise EpisodeError(f"{where}: the instruction is {one_line(repr(text), 60)}, not text; store text")
    return text


def as_instruction(own: Any, otherwise: Any, where: str) -> str:
    """An episode's own instruction, or another where it has none or a blank one. Raises EpisodeError: as `as_text`."""
    text = as_text("" if own is None else own, where)
    return text if text.strip() else as_text(otherwise, where) or text


def is_blank(text: Any) -> bool:
    """Whether it is text that says nothing."""
    word = _plain(text)
    return isinstance(word, str) and not word.strip()


def as_truths(value: Any) -> np.ndarray:
    """bool where all are 0 or 1; anything else stays as it is, for the check that names its place."""
    given = np.asarray(value)
    return given.astype(bool) if given.dtype.kind in "biuf" and np.isin(given, (0, 1)).all() else given


def as_truth(value: Any, where: str) -> bool:
    """What a file says of success: a truth value, 0 or 1, or a word for it. Raises EpisodeError: none of these."""
    word = _plain(value)
    if isinstance(word, (bool, int, float)) and word in (0, 1):
        return bool(word)
    if isinstance(word, str) and word.strip().lower() in _TRUE + _FALSE:
        return word.strip().lower() in _TRUE
    raise EpisodeError(f"{where} is {one_line(repr(word), 60)}, neither true nor false; store a truth value")


def decoded(value: Any) -> str:
    """Text that is stored as bytes or not. Raises UnicodeError: it is no text."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    text.encode()  # bytes that are no text come out of h5py as halves of surrogate pairs
    return text


def _plain(value: Any) -> Any:
    """What an array of one element holds, bytes as text if they are text."""
    plain = value.item() if isinstance(value, (np.generic, np.ndarray)) and np.size(value) == 1 else value
    with contextlib.suppress(UnicodeDecodeError):
        return plain.decode() if isinstance(plain, bytes) else plain
    return plain


def picture_size(shape: Sequence[int], dtype: np.dtype, where: str) -> tuple[int, int]:
    """Height and width of the pictures of a recording. Raises EpisodeError: they are not RGB bytes, as `as_frames`."""
    if dtype != np.uint8 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise EpisodeError(f"{where} is {dtype}{list(shape)}, not uint8[T, h, w, 3]; store pictures as RGB bytes")
    return (shape[1], shape[2]) if shape[3] == 3 else (shape[2], shape[3])


def require_one_size(sizes: Iterable[tuple[str, Mapping[str, tuple[int, ...]]]]) -> None:
    """Raises EpisodeError: of places with the pictures' sizes by camera, one has others than the first."""
    first: Mapping[str, tuple[int, ...]] | None = None
    for where, found in sizes:
        first = found if first is None else first
        if found != first:
            told = [", ".join(f"{key} {h}x{w}" for key, (h, w) in each.items()) or "none" for each in (found, first)]
            raise EpisodeError(
                f"{where}: pictures are {told[0]}, the first episode's {told[1]}; a dataset has one layout: make two "
                "of them or repair the episode"
            )


def as_frames(value: Any) -> np.ndarray:
    """uint8[T, h, w, 3] from uint8 frames, channels first or last; anything else stays, for `Episode.validate`."""
    frames = np.asarray(value)
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(frames)


def resized(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Frames of another height and width (Lanczos, antialiased), or unchanged."""
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    height, width = size
    from PIL import Image  # of an extra; the names of readers are known without

    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames])


def require_spelling(found: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises EpisodeError: a known name is not among those that were found, and one in other letters, with other signs
    between them or with `is_` before it is."""
    found = sorted(found)
    meant = {_letters(key): key for key in known if key not in found}
    for name in found:
        if key := meant.get(_letters(name)):
            raise EpisodeError(f"{where}: {one_line(name, 60)!r} is not read; if it is {key!r}, call it so")


def _letters(name: str) -> str:
    return re.sub("^is_|[^a-z0-9]", "", name.lower())
