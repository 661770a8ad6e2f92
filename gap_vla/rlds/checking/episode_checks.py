"""Checks that look at one episode: structure, numbers, poses, pictures, text, ρ."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gap_vla.core.episode import LABELS, label_problems
from gap_vla.phases.motion import relative_rotation_vector
from gap_vla.rlds.checking.report import Finding, Recording
from gap_vla.rlds.reader import misplaced

SHORTEST = 5
JUMP_FACTOR, JUMP_METRES, JUMP_RADIANS = 5.0, 0.02, 0.3
"""A step is a jump if it is this many times the 95th percentile of all but the two largest, and at least this large."""
FAR = 10.0
"""Metres that no arm reaches."""
STILL_SHARE = 0.2
"""Share of repeated pictures, while the arm moves, from which on a camera counts as stuttering."""


def check_structure(episode: Recording) -> Iterator[Finding]:
    """is_first and is_last are True exactly at the ends, is_terminal nowhere else; the episode has enough steps."""
    lost = [f"no {key}; RLDS readers need it" for key in ("is_first", "is_last") if key not in episode.fields]
    for text in (*lost, *misplaced(episode.fields)):
        yield Finding("error", "structure", text, episode.name)
    if len(episode) < SHORTEST:
        yield Finding("warning", "length", f"{len(episode)} steps; drop it if it is a false start", episode.name)


def check_finite(episode: Recording) -> Iterator[Finding]:
    """No NaN, no infinity, not in float32 either."""
    for key, value in episode.fields.items():
        if value.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                bad = ~np.isfinite(value.astype(np.float32).reshape(len(value), -1)).all(1)
            if bad.any():
                text = f"{key} is NaN or infinite at {bad.sum()} steps; repair or drop the episode"
                yield Finding("error", "finite", text, episode.name, int(bad.argmax()))


def check_time(episode: Recording) -> Iterator[Finding]:
    """Timestamps, where there are any, increase evenly."""
    for key, value in episode.fields.items():
        if key.rsplit("/", 1)[-1] not in ("timestamp", "time", "timestamps") or value.ndim != 1 or len(value) < 3:
            continue
        gaps = np.diff(value.astype(np.float64))
        if (gaps <= 0).any():
            text = f"{key} does not increase; steps are out of order or duplicated"
            yield Finding("error", "time", text, episode.name, int((gaps <= 0).argmax()) + 1)
        elif gaps.max() > 3 * np.median(gaps):
            text = f"{key} has a gap of {gaps.max():.3g} (median {np.median(gaps):.3g}); frames were lost"
            yield Finding("warning", "time", text, episode.name, int(gaps.argmax()) + 1)


def check_pose(episode: Recording) -> Iterator[Finding]:
    """Positions and rotations move without jumps; quaternions have length one and do not flip their sign."""
    if episode.proprio is None or not np.isfinite(episode.proprio).all() or len(episode) < 3:
        return
    for arm, state in enumerate(np.split(episode.proprio.astype(np.float64), episode.arms, axis=1)):
        moved = np.linalg.norm(np.diff(state[:, :3], axis=0), axis=1)
        yield from _jump(episode, moved, JUMP_METRES, f"arm {arm} moves", "m")
        quaternion = state[:, 3:7]
        norm = np.linalg.norm(quaternion, axis=1)
        if abs(norm - 1).max() > 1e-3:
            step = int(abs(norm - 1).argmax())
            text = f"arm {arm}: quaternion of length {norm[step]:.4g}; these columns may not be a quaternion"
            yield Finding("error", "quaternion", text, episode.name, step)
            continue
        turned = np.linalg.norm(relative_rotation_vector(quaternion[:-1], quaternion[1:]), axis=1)
        yield from _jump(episode, turned, JUMP_RADIANS, f"arm {arm} turns", "rad")
        flips = np.flatnonzero((quaternion[1:] * quaternion[:-1]).sum(1) < 0) + 1
        if len(flips):
            text = f"arm {arm}: the quaternion changes its sign {len(flips)} times (same pose, other numbers); "
            yield Finding("warning", "quaternion", text + "force one hemisphere", episode.name, int(flips[0]))


def _jump(episode: Recording, size: np.ndarray, least: float, what: str, unit: str) -> Iterator[Finding]:
    limit = max(least, JUMP_FACTOR * float(np.quantile(np.sort(size)[:-2], 0.95))) if len(size) > 2 else np.inf
    if size.max() > limit:
        usual = np.median(size)
        text = f"{what} {size.max():.3g} {unit} in one step (median {usual:.2g}); frames missing or a tracking error"
        yield Finding("warning", "jump", text, episode.name, int(size.argmax()) + 1)


def check_recorded(episode: Recording) -> Iterator[Finding]:
    """State and action change within the episode, and positions may be metres."""
    for what, values in (("the state", episode.proprio), ("the action", episode.action)):
        if values is not None and len(values) >= SHORTEST and not np.ptp(values, axis=0).any():
            yield Finding("warning", "constant", f"{what} is the same at every step; was it recorded?", episode.name)
    if episode.proprio is not None:
        reach = abs(episode.proprio.reshape(len(episode), -1, 9)[:, :, :3]).max((1, 2))
        if reach.max() > FAR:
            text = f"a position {reach.max():.4g} m away from the origin; are these metres?"
            yield Finding("warning", "reach", text, episode.name, int(reach.argmax()))


def check_pictures(episode: Recording) -> Iterator[Finding]:
    """Cameras show something, and the picture changes while the arm moves."""
    moves = np.ones(len(episode) - 1, bool)
    if episode.proprio is not None and len(episode) > 1:
        moves = np.linalg.norm(np.diff(episode.proprio[:, :3], axis=0), axis=1) > 1e-3
    for camera, frames in episode.images.items():
        blank = np.array([frame.min() == frame.max() for frame in frames])
        if blank.all():
            yield Finding("warning", "blank", f"{camera} has one colour throughout; leave it out", episode.name)
            continue
        if blank.any():
            text = f"{camera} has one colour at {blank.sum()} of {len(blank)} steps; frames were lost"
            yield Finding("error", "blank", text, episode.name, int(blank.argmax()))
        same = np.array([np.array_equal(a, b) for a, b in zip(frames[1:], frames[:-1])], bool)
        stuck = same & moves
        if moves.sum() >= 5 and stuck.sum() > STILL_SHARE * moves.sum():
            text = f"{camera} repeats the frame before at {stuck.sum()} of {moves.sum()} steps in which the arm moves; "
            yield Finding("warning", "still", text + "the camera ran slower", episode.name, int(stuck.argmax()) + 1)


def check_language(episode: Recording) -> Iterator[Finding]:
    """There is one instruction."""
    if not episode.language or not episode.language[0].strip():
        text = "no language instruction; a language-conditioned policy gets nothing from it"
        yield Finding("warning", "language", text, episode.name)
    elif any("\ufffd" in text for text in episode.language):
        yield Finding("error", "language", "the instruction is not UTF-8; write it again as text", episode.name)
    elif len(set(episode.language)) > 1:
        step = next(i for i, text in enumerate(episode.language) if text != episode.language[0])
        yield Finding("note", "language", "the instruction changes within the episode", episode.name, step)


def check_rho(episode: Recording) -> Iterator[Finding]:
    """ρ is a probability, there are change points with it, and none lies on the first step."""
    for text, step in label_problems({key: episode.fields[key] for key in LABELS if key in episode.fields}):
        yield Finding("error", "rho", f"{text}; annotate again", episode.name, step)


EPISODE_CHECKS: tuple[Callable[[Recording], Iterator[Finding]], ...] = (
    check_structure,
    check_finite,
    check_time,
    check_pose,
    check_recorded,
    check_pictures,
    check_language,
    check_rho,
)
