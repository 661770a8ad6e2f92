"""Fields of an Episode out of somebody's arrays, with errors that name the place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


TIMES = ("timestamp", "timestamps", "time", "times", "time_stamp")
"""Names of columns that hold the time of each step."""

COUNTERS = ("frame_index", "frame_idx", "step_index", "step_id")
"""Names of columns that count the steps, from some number on and by the same each."""

COUNTS = ("num_samples", "num_steps", "n_steps", "num_frames", "n_frames", "length")
"""Whole numbers that say how many steps there are."""

COUNTS_OF_ALL = ("num_demos", "num_episodes", "n_episodes")
"""Whole numbers that say how many recordings there are."""

_VALID = ("valid", "is_valid", "valid_mask", "mask", "pad_mask", "state_mask", "proprio_mask", "action_mask")
"""Names of columns that are true where a step was measured; `is_pad` is true where it was not."""
_OF_STEPS = re.compile(r"(?:.*_)?is_pad|.*_timestamp|(?:robot\d|image|state|proprio|eef|action).*_valid")


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


def require_rising(times: np.ndarray, where: str, *, equal: bool = False) -> None:
    """Raises EpisodeError for times, one number per step, of which one is not later than the one before; or, if they
    may be `equal` (seconds since 1970 have no fractions in float32), earlier."""
    times = times.reshape(-1) if times.size == len(times) else times
    if times.dtype.kind not in "fiu":
        return
    if times.ndim == 2:  # of several clocks, or seconds beside their fractions: the first of them counts
        times, equal = times[:, 0], True
    if times.ndim != 1:
        return
    if not (risen := (times[1:] > times[:-1]) | (equal & (times[1:] == times[:-1]))).all():
        step = 1 + (~risen).argmax()
        now, before = f"{times[step]:g}", f"{times[step - 1]:g}"
        if now == before:  # as nanoseconds since 1970
            now, before = times[step].item(), times[step - 1].item()
        raise EpisodeError(f"{where} is {now} at step {step}, not after {before}; write it with times that increase")


ENDS = ("done", "dones", "terminal", "terminals", "terminated", "truncated", "timeouts")
"""Arrays that are true where a recording ends."""

PER_STEP = (
    "is_first", "is_last", "is_terminal", *ENDS, "reward", "rewards", "discount", "timestamp",
    "timestamps", "rho", "change_point", "episode_index",
)  # fmt: skip
"""Arrays that have one row per step where they are no single number; none of them is a robot's state or action."""


def counts_others(key: str, said: Any, steps: int) -> bool:
    """Whether a number of this name says that there are other steps; a `length` that is no integer is of a thing."""
    whole = isinstance(said, int) or (isinstance(said, float) and said.is_integer() and key != "length")
    return whole and not isinstance(said, bool) and said != steps


def tells(name: str) -> bool:
    """Whether an array of this name, in whatever letters and groups, says something of the steps beside it, which
    `require_rows` compares."""
    key = name.rpartition("/")[2].lower()
    return key in (*PER_STEP, *TIMES, *COUNTERS, *COUNTS, *_VALID) or _OF_STEPS.fullmatch(key) is not None


def require_ended(where: str, dones: np.ndarray, *, lasting: bool = True) -> None:
    """Raises EpisodeError: `dones`, a row per step, is true somewhere and not at the last step, or no number; or, if it
    must be `lasting`, false behind a true one."""
    if not np.isfinite(dones).all():
        raise EpisodeError(f"{where} holds NaN or infinity; correct it")
    ended = np.asarray(dones.reshape(len(dones), -1).any(axis=1))
    early = np.flatnonzero(ended[:-1] & (~ended[1:] if lasting else ~ended[-1]))
    if early.size:
        behind = "not after it; make two of it" if ended[-1] else "not at the last; cut the episode or correct it"
        raise EpisodeError(f"{where} is true at step {early[0]} of {len(ended)} and {behind}")


FLAGS = {"is_first": 0, "is_last": -1, "is_terminal": -1}
"""The only step at which each is true; the last one may be so nowhere."""


def misplaced(fields: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Says which of is_first, is_last and is_terminal, where they are there, are not true where they must be, and
    whether there are two episodes by `episode_index`."""
    numbers = fields.get("episode_index", np.zeros(0))
    if len(changes := np.argwhere(numbers[1:] != numbers[:-1])):
        yield f"episode_index changes at step {changes[0][0] + 1} of {len(numbers)}"
    for name in filter(fields.__contains__, FLAGS):
        end, at = FLAGS[name] % len(fields[name]), np.flatnonzero(fields[name]).tolist()
        if at != [end] and (at or name != "is_terminal"):
            yield f"{name} is true at steps {at[:5]} of {len(fields[name])}, it must be at {end} only"


def require_rows(name: str, rows: np.ndarray, steps: int, where: str, *, lasting: bool = True) -> None:
    """Looks at one array that `tells`; a single number says nothing, but for `COUNTS`.

    Raises EpisodeError: it has other steps than the actions, says that there are others or that one was not measured,
    or is of two recordings: times fall, numbers of steps jump, ends lie elsewhere or, if they must be `lasting`, are
    false behind a true one.
    """
    key, what = name.rpartition("/")[2].lower(), f"{where}: {name!r}"
    if rows.size == 1:
        if key in COUNTS and counts_others(key, rows.item(), steps):
            raise EpisodeError(f"{what} says {rows.item():g} steps, there are {steps}; correct it or drop the episode")
        return
    if key in COUNTS:
        return
    if tells(name) and key not in PER_STEP:  # what other programs call so may be something else
        if rows.dtype.kind not in "biuf" or rows.shape[:1] != (steps,) or rows.size != steps:
            return
    if len(rows) != steps:
        raise EpisodeError(
            f"{what} has {len(rows)} steps, the actions {steps}; cut them to the same steps or drop the episode"
        )
    if key in (*FLAGS, *ENDS) and rows.dtype.kind not in "biuf":
        raise EpisodeError(f"{what} holds {one_line(str(rows.dtype), 40)}; write true and false, or leave it out")
    for text in misplaced({key: rows}):
        raise EpisodeError(f"{where}: {text}; make a recording of each, correct it, or leave it out")
    if key in ENDS:
        require_ended(what, rows, lasting=lasting)
    if not rows.size:
        return
    if key in COUNTERS and len(rows) > 1:
        count = rows.reshape(-1).astype(np.float64 if rows.dtype.kind == "f" else np.int64)
        risen = np.diff(count)
        if len(odd := np.flatnonzero((risen != risen[0]) | (risen <= 0))):
            told = f"{count[odd[0]]:g} at step {odd[0]} and {count[odd[0] + 1]:g} at the next"
            raise EpisodeError(f"{what} is {told}; steps are missing or in another order: repair or drop the episode")
    if (padded := key.endswith("is_pad")) or key in _VALID or key.endswith("_valid"):
        flags = rows.reshape(-1)
        if len(lost := np.flatnonzero(flags != 0 if padded else ~(flags > 0))):  # NaN is neither
            advice = "it was not measured there: cut the episode, drop it, or leave the array out"
            raise EpisodeError(f"{what} is {str(padded).lower()} at step {lost[0]}; {advice}")
    if key in TIMES or key.endswith("_timestamp"):
        coarse = rows.dtype.kind == "f" and np.spacing(np.abs(rows).max()) > 1e-3
        exact = key in ("timestamp", "timestamps")  # a camera may be slower, and a `time` in whole seconds
        require_rising(rows, what, equal=bool(coarse) or not exact)
