"""Checks of what was recorded: flags, states, labels, pictures, and episodes that occur twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.phases.measures import told_weak
from gap_vla.rlds.source import MISSING

SHORTEST = 5
SHARED = 20
"""Steps in a row that two episodes do not have in common by chance."""
FAR = 10.0
"""Metres that no arm reaches."""
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
    """One statement about some episodes, or about the dataset.

    Attributes:
        level: `error`: training on it would be wrong; `warning`: look at it; `note`: a convention.
        check: name of the check.
        message: what was found and what to do; the same for every episode of which it is found.
        detail: the value in the first of these episodes, or the place.
        episodes: their names; () for the whole dataset.
    """

    level: Literal["error", "warning", "note"]
    check: str
    message: str
    detail: str = ""
    episodes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        if not self.episodes:
            return self.detail
        count = f"{len(self.episodes)} episodes, first " if len(self.episodes) > 1 else ""
        return f"{count}{self.episodes[0]}" + (f": {self.detail}" if self.detail else "")

    def __str__(self) -> str:
        return f"{self.level}: {self.check}: {self.message}" + (f" ({self.where})" if self.where else "")


# One episode


def check_ends(flags: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """`is_first` and `is_last` of an RLDS episode are true exactly at its ends, `is_terminal` nowhere else."""
    for key, end in (("is_first", 0), ("is_last", -1), ("is_terminal", -1)):
        if key not in flags:
            if key != "is_terminal":
                yield Finding("error", "structure", f"no {key}; readers of RLDS need it")
            continue
        flag = np.asarray(flags[key], bool).ravel()
        if np.delete(flag, end).any():
            yield Finding("error", "structure", f"{key} is true in the middle of an episode; cut the episode there")
        elif key != "is_terminal" and not flag[end]:
            yield Finding("error", "structure", f"{key} is not true at the episode's end; write it again")


def check_recorded(episode: Episode) -> Iterator[Finding]:
    """State and action change within the episode, positions may be metres, and there is an instruction."""
    if len(episode) < SHORTEST:
        text = "episodes of fewer than five steps; drop those that are false starts"
        yield Finding("warning", "length", text, f"{len(episode)} steps")
    else:
        given = {"the state": episode.proprio, "the action": episode.action}
        given = {what: values for what, values in given.items() if values.shape[1]}
        for what, values in given.items():
            if not np.ptp(values, axis=0).any():
                yield Finding("warning", "constant", f"{what} is the same at every step; was it recorded?")
        again = np.all([(values[1:] == values[:-1]).all(1) for values in given.values()], axis=0)
        if STILL_SHARE * len(episode) < again.sum() < len(again):
            text = "steps repeat the step before, state and action; stored twice, or idle"
            yield Finding("warning", "repeated", text, f"{again.sum()} of {len(episode)} steps")
    if episode.columns is not None and episode.columns.has_pose:
        reach = max(float(np.linalg.norm(arm.position, axis=1).max()) for arm in episode.arms)
        if reach > FAR:
            text = "a position is farther away from the origin than an arm reaches; are these metres?"
            yield Finding("warning", "reach", text, f"{reach:.4g} m")
    told = episode.language_instruction
    texts = {told} if isinstance(told, str) else {*told}
    if not any(text.strip() for text in texts):
        text = "no language instruction; a language-conditioned policy gets nothing from it"
        yield Finding("note", "language", text)
    elif len(texts) > 1:
        yield Finding("note", "language", "the instruction changes within the episode")


def check_labels(episode: Episode) -> Iterator[Finding]:
    """No change point lies on the first step, ρ varies, and is higher about change points than elsewhere."""
    rho, points = episode.rho, episode.change_point
    if rho is None or points is None:
        return
    if points[0]:
        text = "change_point is true at the first step, which begins no change; annotate again"
        yield Finding("error", "rho", text)
    near = np.convolve(points, np.ones(2 * NEAR + 1), "full")[NEAR : NEAR + len(rho)] > 0
    if len(rho) >= SHORTEST and np.ptp(rho) == 0:
        yield Finding("note", "rho", "ρ is the same at every step; annotate again, unless that is meant")
    elif near.any() and not near.all() and rho[near].mean() <= rho[~near].mean():
        yield Finding("warning", "rho", "ρ is lower about change points than elsewhere; annotate again")


def check_pictures(episode: Episode) -> Iterator[Finding]:
    """Each camera shows something, unless the dataset says that it is missing, and changes while the arm moves."""
    state = episode.proprio.astype(np.float64)
    moves = (abs(np.diff(state, axis=0)) > np.maximum(STEP_SHARE * np.ptp(state, axis=0), 1e-4)).any(1)
    for camera, frames in episode.images.items():
        blank = is_blank(frames)
        stuck = moves & (frames[1:] == frames[:-1]).all(axis=(1, 2, 3))
        if camera in episode.metadata.get(MISSING, ()):
            text = f"{camera} is missing, as the dataset says; its pictures are blank"
            yield Finding("note", "convention", text)
        elif blank.all():
            yield Finding("warning", "blank", f"{camera} has one colour throughout; leave it out")
        elif frames.max() < DARK:
            text = f"{camera} is nearly black; if it was made of floats from 0 to 1, multiply them by 255"
            yield Finding("warning", "blank", text, f"values up to {frames.max()}")
        elif blank.any():
            text = f"{camera} has one colour at some steps; frames were lost"
            yield Finding("error", "blank", text, f"{blank.sum()} steps, first {blank.argmax()}")
        elif moves.sum() >= SHORTEST and stuck.sum() > STILL_SHARE * moves.sum():
            text = f"{camera} repeats the frame before while the arm moves; the camera ran slower, or stopped"
            yield Finding("warning", "still", text, f"{stuck.sum()} of {moves.sum()} steps")


def is_blank(frames: np.ndarray) -> np.ndarray:
    """bool[T], which pictures are of one colour."""
    return (frames == frames[:, :1, :1]).all(axis=(1, 2, 3))  # type: ignore[no-any-return]


# All episodes


def check_weak(labelled: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Finding]:
    """ρ above one half marks the change points, over all episodes with ρ and change points."""
    weak = told_weak([rho for rho, _ in labelled], [np.flatnonzero(points) for _, points in labelled])
    if weak and any(np.ptp(rho) > 0 for rho, _ in labelled):
        yield Finding("warning", "rho", weak)


def prints_of(episode: Episode) -> dict[str, bytes]:
    """A hash of the film of each camera that shows something."""
    return {camera: _print(frames) for camera, frames in episode.images.items() if not is_blank(frames).all()}


def _print(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()


def check_films(films: Mapping[str, Mapping[str, bytes]]) -> Iterator[Finding]:
    """No two cameras show the same, and no film occurs twice; episode to what `prints_of` gave."""
    seen: dict[tuple[str, bytes], str] = {}
    for name, prints in films.items():
        for camera, own in prints.items():
            twin = next(other for other in prints if prints[other] == own)
            if twin != camera:
                text = f"{twin} and {camera} show the same pictures; leave one camera out"
                yield Finding("warning", "pictures", text, "", (name,))
            if (first := seen.setdefault((camera, own), name)) != name:
                text = f"{camera} shows another episode's pictures"
                yield Finding("warning", "pictures", text, f"as {first}", (name,))


def check_duplicates(names: Sequence[str], rows: Sequence[np.ndarray], splits: Sequence[str]) -> Iterator[Finding]:
    """The `SHARED` steps in the middle of an episode occur in no other; across splits they would leak validation data.

    Args:
        rows: state and action of each episode side by side. Episodes may begin alike, as from home in a simulation.
        splits: the split of each episode.
    """
    middles: dict[bytes, list[int]] = {}
    for index, own in enumerate(rows):
        start = max(len(own) - SHARED, 0) // 2
        part = own[start : start + SHARED]
        if np.ptp(part, axis=0).any():
            middles.setdefault(_print(part), []).append(index)
    twins: dict[int, set[int]] = {}  # an episode to those before it that have steps in common with it
    for index, own in enumerate(rows):
        for start in range(max(len(own) - SHARED, 0) + 1):
            for other in middles.get(_print(own[start : start + SHARED]), ()):
                if other != index:
                    twins.setdefault(max(index, other), set()).add(min(index, other))
    for index, others in sorted(twins.items()):
        leaks = [other for other in sorted(others) if splits[other] != splits[index]]
        if leaks:
            text = "the same states and actions as an episode of another split; the splits overlap"
            yield Finding("error", "duplicate", text, names[leaks[0]], (names[index],))
        else:
            text = "the same states and actions as another episode; drop one"
            yield Finding("warning", "duplicate", text, names[min(others)], (names[index],))
