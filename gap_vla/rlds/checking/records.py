"""Checks of the records: flags, states, labels, pictures, and episodes that occur twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool

from gap_vla.core.episode import Episode
from gap_vla.phases.measures import beyond_reach, marked_share, told_weak

SHORTEST = 5
SHARED = 20
"""Steps in a row that two episodes do not have in common by chance."""
APART = 10
"""Steps between the remembered parts of an episode; every part of a later episode is compared with them."""
DARK = 8
"""Of 256 grey levels: a film that has no more was made of numbers from 0 to 1, or shows nothing."""
STILL_SHARE = 0.2
"""Share of repeated steps or pictures from which on a recording counts as stuttering."""
STEP_SHARE = 0.01
"""Of the range of a column over the episode: a step that is larger is motion."""
NEAR = 3
"""Steps about a change point in which ρ is higher than elsewhere."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement about one episode, or about the dataset.

    Attributes:
        level: `error`: training on it would be wrong; `warning`: look at it; `note`: a convention.
        check: name of the check.
        message: what was found and what to do; the same for every episode of which it is found.
        episode: its name; "" for the whole dataset.
        detail: the value in this episode, or the place.
    """

    level: Literal["error", "warning", "note"]
    check: str
    message: str
    episode: str = ""
    detail: str = ""


def check_ends(name: str, flags: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """`is_first` and `is_last` of an RLDS episode are true exactly at its ends, `is_terminal` nowhere else."""
    for key, end in (("is_first", 0), ("is_last", -1), ("is_terminal", -1)):
        if key not in flags:
            if key != "is_terminal":
                yield Finding("error", "structure", f"no {key}; readers of RLDS need it", name)
            continue
        wanted = np.zeros(len(flags[key]), bool)
        wanted[end] = True
        wrong = np.asarray(flags[key], bool).ravel() & ~wanted
        if wrong.any():
            text = f"{key} is true in the middle of an episode; make an episode of each part"
            yield Finding("error", "structure", text, name, f"step {wrong.argmax()}")
        elif key != "is_terminal" and not flags[key][end]:
            yield Finding("error", "structure", f"{key} is not true at the episode's end; write it again", name)


def check_recorded(name: str, episode: Episode) -> Iterator[Finding]:
    """State and action change within the episode, positions may be metres, and there is an instruction."""
    given = {"the state": episode.proprio, "the action": episode.action}
    given = {what: values for what, values in given.items() if values.shape[1]}
    if len(episode) < SHORTEST:
        text = "episodes of fewer than five steps; drop those that are false starts"
        yield Finding("warning", "length", text, name, f"{len(episode)} steps")
    else:
        for what, values in given.items():
            if not np.ptp(values, axis=0).any():
                yield Finding("warning", "constant", f"{what} is the same at every step; was it recorded?", name)
        again = np.all([(values[1:] == values[:-1]).all(1) for values in given.values()], axis=0)
        if STILL_SHARE * len(episode) < again.sum() < len(again):
            text = "steps repeat the step before, state and action; stored twice, or idle"
            yield Finding("warning", "repeated", text, name, f"{again.sum()} of {len(episode)} steps")
    if episode.columns is not None and episode.columns.has_pose:
        reach = max(float(np.linalg.norm(arm.position, axis=1).max()) for arm in episode.arms)
        if beyond_reach(reach):
            text = "a position is farther away from the origin than an arm reaches; are these metres?"
            yield Finding("warning", "reach", text, name, f"{reach:.4g} m")
    told = episode.language_instruction
    texts = [told] if isinstance(told, str) else [*told]
    if not any(text.strip() for text in texts):
        text = "no language instruction; a language-conditioned policy gets nothing from it"
        yield Finding("note", "language", text, name)
    elif len({*texts}) > 1:
        yield Finding("note", "language", "the instruction changes within the episode", name)


def check_labels(name: str, episode: Episode) -> Iterator[Finding]:
    """No change point lies on the first step, ρ varies, and is higher about change points than elsewhere."""
    rho, points = episode.rho, episode.change_point
    if rho is None or points is None:
        return
    if points[:1].any():
        text = "change_point is true at the first step, which begins no change; annotate again"
        yield Finding("error", "rho", text, name)
    if len(rho) < SHORTEST:
        return
    places = np.flatnonzero(points)
    near = np.zeros(len(rho), bool)
    for away in range(-NEAR, NEAR + 1):
        near[np.clip(places + away, 0, len(rho) - 1)] = True
    if np.ptp(rho) == 0:
        yield Finding("note", "rho", "ρ is the same at every step; annotate again, unless that is meant", name)
    elif len(places) > len(rho) / 2:
        text = "more than half of the steps are change points; annotate again"
        yield Finding("warning", "rho", text, name, f"{len(places)} of {len(rho)}")
    elif near.any() and not near.all() and rho[near].mean() <= rho[~near].mean():
        yield Finding("warning", "rho", "ρ is lower about change points than elsewhere; annotate again", name)


def check_weak(labelled: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Finding]:
    """ρ above one half marks the change points, over all episodes with ρ and change points."""
    if not labelled:
        return
    share = marked_share([rho for rho, _ in labelled], [np.flatnonzero(points) for _, points in labelled])
    if (weak := told_weak(share)) and any(np.ptp(rho) > 0 for rho, _ in labelled):
        yield Finding("warning", "rho", weak)


# Pictures


def prints_of(episode: Episode) -> dict[str, bytes]:
    """A hash of the film of each camera that shows something."""
    shown = {camera: frames for camera, frames in episode.images.items() if not _blank(frames).all()}
    return {camera: _print(frames) for camera, frames in shown.items()}


def _print(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()


def check_pictures(name: str, episode: Episode, missing: Sequence[str] = ()) -> Iterator[Finding]:
    """Cameras show something, and the picture changes while the arm moves; `missing` ones are declared to be."""
    moves = _moves(episode)
    for camera, frames in episode.images.items():
        blank = _blank(frames)
        if camera in missing:
            yield Finding(
                "note", "convention", f"{camera} is missing, as the dataset says; its pictures are blank", name
            )
            continue
        if blank.all():
            yield Finding("warning", "blank", f"{camera} has one colour throughout; leave it out", name)
            continue
        if frames.max() < DARK:
            text = f"{camera} is nearly black; if it was made of floats from 0 to 1, multiply them by 255"
            yield Finding("warning", "blank", text, name, f"values up to {frames.max()}")
            continue
        if blank.any():
            text = f"{camera} has one colour at some steps; frames were lost"
            yield Finding("error", "blank", text, name, f"{blank.sum()} steps, first {blank.argmax()}")
        same = np.array([np.array_equal(a, b) for a, b in zip(frames[1:], frames[:-1])], bool)
        stuck = same & moves
        if len(frames) >= SHORTEST and same.all() and moves.any():
            yield Finding(
                "warning", "still", f"{camera} is one picture, and the arm moves; the camera was frozen", name
            )
        elif moves.sum() >= SHORTEST and stuck.sum() > STILL_SHARE * moves.sum():
            text = f"{camera} repeats the frame before while the arm moves; the camera ran slower, or stopped"
            yield Finding("warning", "still", text, name, f"{stuck.sum()} of {moves.sum()} steps")


def _blank(frames: np.ndarray) -> Bool[np.ndarray, " T"]:
    """Which pictures are of one colour."""
    return np.array([(frame == frame[0, 0]).all() for frame in frames], bool)


def _moves(episode: Episode) -> Bool[np.ndarray, " S"]:
    """In which steps the state changes by more than noise."""
    size = np.ptp(episode.proprio.astype(np.float64), axis=0)
    step = abs(np.diff(episode.proprio.astype(np.float64), axis=0))
    return (step > np.maximum(STEP_SHARE * size, 1e-4)).any(1)


def check_films(films: Mapping[str, Mapping[str, bytes]]) -> Iterator[Finding]:
    """No two cameras show the same, and no film occurs twice; episode to what `prints_of` gave."""
    seen: dict[tuple[str, bytes], str] = {}
    for name, prints in films.items():
        cameras: dict[bytes, str] = {}
        for camera, own in prints.items():
            if own in cameras:
                text = f"{cameras[own]} and {camera} show the same pictures; leave one camera out"
                yield Finding("warning", "pictures", text, name)
            cameras.setdefault(own, camera)
            if first := seen.get((camera, own)):
                yield Finding("warning", "pictures", f"{camera} shows another episode's pictures", name, f"as {first}")
            seen.setdefault((camera, own), name)


# Episodes that occur twice


def check_duplicates(names: Sequence[str], rows: Sequence[np.ndarray], splits: Sequence[str] = ()) -> Iterator[Finding]:
    """No episode, and no `SHARED` steps in a row of one, occur twice; across splits they would leak validation data.

    Args:
        rows: state and action of each episode side by side.
        splits: the split of each episode; empty if there are no splits.
    """
    seen: dict[bytes, int] = {}
    for index, own in enumerate(rows):
        steps = min(len(own), SHARED)
        last = len(own) - steps
        twins = []
        for start in range(last + 1):
            part = own[start : start + steps]
            key = _print(part)
            first = seen.get(key, index)
            if first != index and np.ptp(part, axis=0).any() and start + steps > _common_start(own, rows[first]):
                twins.append(first)
            if start % APART == 0 or start == last:
                seen.setdefault(key, index)
        leaks = [first for first in twins if splits and splits[first] != splits[index]]
        if leaks:
            text = "the same states and actions as an episode of another split; the splits overlap"
            yield Finding("error", "duplicate", text, names[index], names[leaks[0]])
        elif twins:
            text = "the same states and actions as another episode; drop one"
            yield Finding("warning", "duplicate", text, names[index], names[twins[0]])


def _common_start(rows: np.ndarray, others: np.ndarray) -> int:
    """Steps that two episodes begin with alike, as from home in a simulation; 0 if they are half of the shorter one or
    more, because the one may be a copy of the other."""
    shorter = min(len(rows), len(others))
    alike = int(np.append((rows[:shorter] == others[:shorter]).all(1), False).argmin())
    return alike if alike < shorter / 2 else 0
