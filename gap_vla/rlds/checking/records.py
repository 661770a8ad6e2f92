"""Checks of what was recorded: structure, labels, pictures, and episodes that occur twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from gap_vla.core.episode import Episode
from gap_vla.phases.measures import beyond_reach, marked_share, told_weak
from gap_vla.rlds.checking.report import Finding

SHORTEST = 5
SHARED = 20
"""Steps in a row that two episodes do not have in common by chance."""
_APART = 10
"""Steps between the parts of an episode that are remembered; of later episodes every part is compared with them."""
DARK = 8
"""Of 256 grey levels: a film that has no more was made of numbers from 0 to 1, or shows nothing."""
STILL_SHARE = 0.2
"""Share of repeated steps or pictures from which on a recording counts as stuttering."""
STEP_SHARE = 0.01
"""Of the range of a column over the episode: a step that is larger is motion."""
NEAR = 3
"""Steps about a change point in which ρ is higher than elsewhere."""


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


@dataclasses.dataclass(frozen=True)
class Film:
    """What is kept of an episode's pictures: camera to a hash of the film, and to its size."""

    prints: Mapping[str, bytes]
    sizes: Mapping[str, tuple[int, int]]


def film_of(episode: Episode) -> Film:
    shown = {camera: frames for camera, frames in episode.images.items() if not _blank(frames).all()}
    return Film(
        {camera: hashlib.blake2b(frames.tobytes(), digest_size=16).digest() for camera, frames in shown.items()},
        {camera: frames.shape[1:3] for camera, frames in shown.items()},
    )


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


def check_films(films: Mapping[str, Film]) -> Iterator[Finding]:
    """No two cameras show the same, no film occurs twice, and each camera has one size of pictures."""
    seen: dict[tuple[str, bytes], str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name, film in films.items():
        cameras: dict[bytes, str] = {}
        for camera, own in film.prints.items():
            if own in cameras:
                text = f"{cameras[own]} and {camera} show the same pictures; leave one camera out"
                yield Finding("warning", "pictures", text, name)
            cameras.setdefault(own, camera)
            if first := seen.get((camera, own)):
                yield Finding("warning", "pictures", f"{camera} shows another episode's pictures", name, f"as {first}")
            seen.setdefault((camera, own), name)
            if sizes.setdefault(camera, film.sizes[camera]) != film.sizes[camera]:
                text = f"{camera} has pictures of another size than in the first episode; resize them where you read"
                yield Finding("warning", "pictures", text, name, "x".join(map(str, film.sizes[camera])))


# Episodes that occur twice


def check_duplicates(names: Sequence[str], rows: Sequence[np.ndarray], splits: Sequence[str] = ()) -> Iterator[Finding]:
    """No episode, and no part of one, occurs twice; across splits that would leak validation data.

    Args:
        rows: state and action of each episode side by side.
        splits: the split of each; none: all are of one.
    """
    seen: dict[tuple[str, bytes], int] = {}
    for index, own in enumerate(rows):
        found: dict[bool, tuple[str, int]] = {}
        for what, part, start in _parts(own):
            key = (what, hashlib.sha256(np.ascontiguousarray(part).tobytes()).digest())
            first = seen.get(key, index)
            if first != index and np.ptp(part, axis=0).any() and start + len(part) > _common_start(own, rows[first]):
                leak = bool(splits) and splits[first] != splits[index]
                found.setdefault(leak, (what, first))
            if start % _APART == 0 or start == len(own) - SHARED:
                seen.setdefault(key, index)
        for leak in (True, False):
            if leak in found:
                what, first = found[leak]
                text = f"{what} as another episode, " + ("of another split; the splits overlap" if leak else "drop one")
                level = "error" if leak else "warning"
                yield Finding(level, "duplicate", text, names[index], names[first])  # type: ignore[arg-type]
                break


def _parts(rows: np.ndarray) -> Iterator[tuple[str, np.ndarray, int]]:
    """An episode, and any `SHARED` steps in a row of it: what each is, its rows, where it begins."""
    yield "the same states and actions", rows, 0
    for start in range(len(rows) - SHARED + 1):
        yield f"{SHARED} or more steps in a row", rows[start : start + SHARED], start


def _common_start(rows: np.ndarray, others: np.ndarray) -> int:
    """Steps that two episodes begin with alike, as from home in a simulation; 0 where these are half of the shorter one
    or more, and one may be a copy of the other."""
    shorter = min(len(rows), len(others))
    if rows.shape[1] != others.shape[1]:
        return 0
    alike = int(np.append((rows[:shorter] == others[:shorter]).all(1), False).argmin())
    return alike if alike < shorter / 2 else 0
