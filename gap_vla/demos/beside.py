"""Arrays that stand beside what is read of a recording and say something of its steps: times, counters, ends, flags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import one_line

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
            more = f" and {len(at) - 5} more" if len(at) > 5 else ""
            yield f"{name} is true at steps {at[:5]}{more} of {len(fields[name])}, it must be at {end} only"


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
