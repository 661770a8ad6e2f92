"""Checks that look at one episode: structure, numbers, poses, pictures, text, ρ."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool

from gap_vla.core.episode import LABELS, EpisodeError, label_problems
from gap_vla.demos.beside import ENDS, TIMES, misplaced, require_ended
from gap_vla.phases.measures import beyond_reach
from gap_vla.phases.motion import UNIT_QUATERNION_TOLERANCE, relative_rotation_vector
from gap_vla.rlds.checking.jump_checks import JUMP_METRES, JUMP_RADIANS, jump
from gap_vla.rlds.checking.picture_checks import cells, of_one_colour
from gap_vla.rlds.checking.report import Finding, Recording
from gap_vla.rlds.unread import changing, is_time

SHORTEST = 5
COARSE = 0.01
"""Seconds that times in float32 may be apart at least: those since 1970 are 128 and say no more than an order."""
NEAR = 3
"""Steps about a change point in which ρ is higher than elsewhere."""
DARK = 8
"""Of 256 grey levels: a film that has no more shows nothing, or was made of numbers from 0 to 1."""
NO_ORDER, CHANGES = 0.8, 2.0
"""Share of the change over half of a film that a step reaches if the order of its pictures means nothing, and the least
such change in grey levels. Films of the simulated tasks reach 0.28."""
STILL_SHARE = 0.2
"""Share of repeated pictures, while the arm moves, from which on a camera counts as stuttering."""
STEP, WAY = (1e-3, 0.01, 1e-3, 0.02), (0.02, 0.1, 5e-3, 0.2)
"""What is motion, in a step and over an episode: metres, radians, and of the gripper's columns a number and a share of
the largest, whichever is more."""
_ON_HAND = re.compile("wrist|hand|gripper", re.IGNORECASE)


def check_structure(episode: Recording) -> Iterator[Finding]:
    """is_first and is_last are True exactly at the ends, is_terminal nowhere else; the episode has enough steps."""
    lost = [f"no {key}; RLDS readers need it" for key in ("is_first", "is_last") if key not in episode.fields]
    changed = (f"{text}; make an episode of each" for text in changing({**episode.fields, **episode.texts}))
    for text in (*lost, *misplaced(episode.fields), *changed):
        yield Finding("error", "structure", text, episode.name)
    for name, value in episode.fields.items():
        if name.rpartition("/")[2] in ENDS:
            try:
                require_ended(f"steps: {name}", value, lasting=False)
            except EpisodeError as error:
                yield Finding("error", "structure", str(error), episode.name)
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
    """Timestamps, where there are any, increase evenly; those of one camera, and the first of several clocks, do not
    fall."""
    for key, value in episode.fields.items():
        single = value.size == len(value)
        if not is_time(key) or value.dtype.kind == "b" or not (single or value.ndim == 2) or len(value) < 2:
            continue
        times, own = value.reshape(len(value), -1)[:, 0], single and key.rpartition("/")[2].lower() in TIMES
        gaps = np.diff(times.astype(np.float64))
        with np.errstate(all="ignore"):  # of what is infinite in float32, in which TFDS stores float64, too
            short = times.astype(np.float32)
            coarse = value.dtype.kind == "f" and (short == times).all() and np.spacing(abs(short).max()) > COARSE
        if (coarse or not own) and (gaps >= 0).all():
            continue
        if (gaps <= 0).any():
            text = f"{key} does not increase; steps are out of order or duplicated"
            wrong = gaps <= 0 if own else gaps < 0
            yield Finding("error", "time", text, episode.name, int(wrong.argmax()) + 1)
        elif gaps.max() > 3 * np.median(gaps):
            text = f"{key} has a gap of {gaps.max():.3g} (median {np.median(gaps):.3g}); frames were lost"
            yield Finding("warning", "time", text, episode.name, int(gaps.argmax()) + 1)


def check_pose(episode: Recording) -> Iterator[Finding]:
    """Positions and rotations move without jumps; quaternions have length one and do not flip their sign."""
    if episode.proprio is None or not np.isfinite(episode.proprio).all():
        return
    if episode.doubt:
        yield Finding("error", "pose", episode.doubt, episode.name)
    for arm, state in enumerate(np.split(episode.proprio.astype(np.float64), episode.arms, axis=1)):
        moved = np.linalg.norm(np.diff(state[:, :3], axis=0), axis=1)
        yield from jump(episode, moved, JUMP_METRES, f"arm {arm} moves", "m")
        quaternion = state[:, 3:7]
        norm = np.linalg.norm(quaternion, axis=1)
        if abs(norm - 1).max() > UNIT_QUATERNION_TOLERANCE:
            step = int(abs(norm - 1).argmax())
            text = f"arm {arm}: quaternion of length {norm[step]:.4g}; these columns may not be a quaternion"
            yield Finding("error", "quaternion", text, episode.name, step)
            continue
        turned = np.linalg.norm(relative_rotation_vector(quaternion[:-1], quaternion[1:]), axis=1)
        yield from jump(episode, turned, JUMP_RADIANS, f"arm {arm} turns", "rad")
        flips = np.flatnonzero((quaternion[1:] * quaternion[:-1]).sum(1) < 0) + 1
        if len(flips) and _is_recorded(quaternion, episode.state):
            text = f"arm {arm}: the quaternion changes its sign {len(flips)} times (same pose, other numbers); "
            yield Finding("warning", "quaternion", text + "force one hemisphere", episode.name, int(flips[0]))


def _is_recorded(quaternion: np.ndarray, state: np.ndarray | None) -> bool:
    """Whether the four numbers are columns of the state, and not made of angles or a matrix."""
    columns = quaternion if state is None else state
    return all(np.isclose(columns, part[:, None], atol=1e-3).all(0).any() for part in quaternion.T)


def check_recorded(episode: Recording) -> Iterator[Finding]:
    """State and action change within the episode, and positions may be metres."""
    for what, values in (("the state", episode.known_state), ("the action", episode.action)):
        if values is not None and len(values) >= SHORTEST and not np.ptp(values, axis=0).any():
            yield Finding("warning", "constant", f"{what} is the same at every step; was it recorded?", episode.name)
    if episode.known_state is not None and len(episode) >= SHORTEST:
        same = [np.array_equal(a, b) for rows in (episode.known_state, episode.action) for a, b in zip(rows[1:], rows)]
        again = np.array(same).reshape(2, -1).all(0)
        share = again.sum() / len(episode)
        if share > STILL_SHARE and not again.all():
            text = f"{share:.0%} of the steps repeat the step before, state and action; stored twice, or idle"
            yield Finding("warning", "repeated", text, episode.name, int(again.argmax()) + 1)
    if episode.proprio is not None:
        arms = episode.proprio.reshape(len(episode), -1, 9).astype(np.float64)
        reach = np.linalg.norm(arms[:, :, :3], axis=2).max(1)
        if text := beyond_reach(reach.max()):
            yield Finding("warning", "reach", text, episode.name, int(reach.argmax()))


def check_pictures(episode: Recording) -> Iterator[Finding]:
    """Cameras show something, and the picture changes while the arm moves."""
    steps, way = _motion(episode)
    for camera, frames in episode.images.items():
        every = np.all if _ON_HAND.search(camera) else np.any  # a hand that is held may see nothing of the other arm
        moves, moved = every(steps, axis=1), every(way)
        if DARK > frames.max() > frames.min():
            text = f"{camera} has values of 0 to {frames.max()} only; if it is no mask and was made of floats, "
            text += "multiply them by 255"
            yield Finding("warning", "blank", text, episode.name)
            continue
        blank = np.array([of_one_colour(frame) for frame in frames])
        if blank.all():
            yield Finding("warning", "blank", f"{camera} has one colour throughout; leave it out", episode.name)
            continue
        if blank.any():
            text = f"{camera} has one colour at {blank.sum()} of {len(blank)} steps; frames were lost"
            yield Finding("error", "blank", text, episode.name, int(blank.argmax()))
        same = np.array([np.array_equal(a, b) for a, b in zip(frames[1:], frames[:-1])], bool)
        stuck = same & moves
        if same.all() and moved and len(episode) >= SHORTEST:
            text = f"{camera} is one picture at all {len(frames)} steps, and the arm moves; the camera was frozen"
            yield Finding("warning", "still", text, episode.name)
        elif moves.sum() >= 5 and stuck.sum() > STILL_SHARE * moves.sum():
            text = f"{camera} repeats the frame before at {stuck.sum()} of {moves.sum()} steps in which the arm moves; "
            text += "the camera ran slower, or stopped"
            yield Finding("warning", "still", text, episode.name, int(stuck.argmax()) + 1)


def _motion(episode: Recording) -> tuple[Bool[np.ndarray, "S arms"], Bool[np.ndarray, " arms"]]:
    """In which steps each arm moves, and which arms do over the episode, by more than noise (`STEP`, `WAY`).

    Where the columns are not known, there is one arm, and it moves where any number of state or action changes; where
    there is no state, everywhere.
    """
    if episode.proprio is None:
        rows = () if episode.state is None else (episode.state, episode.action)
        moves = [(row[1:] != row[:-1]).any(1) for row in rows] or [np.ones(len(episode) - 1, bool)]
        steps = np.any(moves, axis=0)[:, None]
        return steps, steps.any(0)
    steps, way = [], []
    with np.errstate(all="ignore"):  # what is NaN or infinite is not said to move
        for arm in np.split(episode.proprio.astype(np.float64), episode.arms, axis=1):
            steps.append(_moves(arm[:-1], arm[1:], *STEP))
            way.append(_moves(arm[:1], arm, *WAY).any())
    return np.stack(steps, axis=1), np.array(way)


def _moves(
    before: np.ndarray, after: np.ndarray, metres: float, radians: float, number: float, share: float
) -> np.ndarray:
    moved = np.linalg.norm(after[:, :3] - before[:, :3], axis=1) > metres
    turned = np.linalg.norm(relative_rotation_vector(before[:, 3:7], after[:, 3:7]), axis=1) > radians
    opened = abs(after[:, 7:9] - before[:, 7:9]).max(1) > max(number, share * abs(after[:, 7:9]).max(initial=0))
    return moved | turned | opened


def check_order(episode: Recording) -> Iterator[Finding]:
    """A picture is more like the next one than like one of another time."""
    for camera, frames in episode.images.items():
        if len(frames) >= 4 * SHORTEST:
            seen = cells(frames)
            next_one, far = (_change(seen, np.roll(seen, -steps, 0)) for steps in (1, len(seen) // 2))
            if far > CHANGES and next_one > NO_ORDER * far:
                text = f"{camera} changes from step to step as much as over half of the episode ({next_one:.0f} grey "
                yield Finding(
                    "warning", "order", text + "levels); its pictures are noise, or out of order", episode.name
                )


def _change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.median(np.sqrt(((after - before) ** 2).mean((1, 2, 3)))))


def check_language(episode: Recording) -> Iterator[Finding]:
    """There is one instruction."""
    if episode.unsaid:
        text = f"the instruction is {episode.unsaid}, not one text a step; a language-conditioned policy gets nothing "
        yield Finding("warning", "language", text + "from it", episode.name)
    elif not episode.language or not episode.language[0].strip():
        text = "no language instruction; a language-conditioned policy gets nothing from it"
        yield Finding("warning", "language", text, episode.name)
    elif any("\ufffd" in text for text in episode.language):
        yield Finding("error", "language", "the instruction is not UTF-8; write it again as text", episode.name)
    elif any("\0" in text for text in episode.language):
        step = next(i for i, text in enumerate(episode.language) if "\0" in text)
        text = "the instruction holds zero bytes, as text of UTF-16 does; write it again in UTF-8"
        yield Finding("error", "language", text, episode.name, step)
    elif other := [i for i, text in enumerate(episode.language) if text.strip() and text != episode.language[0]]:
        text = "the instruction changes within the episode; make an episode of each task"
        yield Finding("error", "language", text, episode.name, other[0])
    elif not all(text.strip() for text in episode.language):
        step = next(i for i, text in enumerate(episode.language) if not text.strip())
        yield Finding("warning", "language", "the instruction is empty at some steps", episode.name, step)


def check_phase(episode: Recording) -> Iterator[Finding]:
    """Phases are text."""
    if lost := [step for step, text in enumerate(episode.texts.get("phase", ())) if "\ufffd" in text]:
        yield Finding("error", "phase", "phase is not UTF-8; write it again as text", episode.name, lost[0])


def check_discount(episode: Recording) -> Iterator[Finding]:
    """Discounts lie in [0, 1]."""
    if (discount := episode.fields.get("discount")) is not None and discount.size == len(episode):
        discount = discount.reshape(-1)
        wrong = ~((discount >= 0) & (discount <= 1))
        if wrong.any():
            step = int(wrong.argmax())
            text = f"discount is {discount[step]:g}; it must lie in [0, 1]"
            yield Finding("error", "discount", text, episode.name, step)


def check_rho(episode: Recording) -> Iterator[Finding]:
    """ρ is a probability, there are change points with it, none lies on the first step, and ρ is higher there."""
    labels = {key: episode.fields[key] for key in LABELS if key in episode.fields}
    problems = list(label_problems(labels))
    for text, step in problems:
        yield Finding("error", "rho", f"{text}; annotate again, or rename it if it is yours", episode.name, step)
    if problems or not labels:
        return
    rho, points = labels["rho"], np.flatnonzero(labels["change_point"])
    near = np.zeros(len(rho), bool)
    for away in range(-NEAR, NEAR + 1):
        near[np.clip(points + away, 0, len(rho) - 1)] = True
    if len(rho) >= SHORTEST and len(points) > len(rho) / 2:
        text = f"{len(points)} of {len(rho)} steps are change points; annotate again"
        yield Finding("warning", "rho", text, episode.name)
    elif near.any() and not near.all() and rho.min() < rho.max() and rho[near].mean() <= rho[~near].mean():
        text = "ρ is lower about change points than elsewhere; annotate again, unless that is meant"
        yield Finding("warning", "rho", text, episode.name)


EPISODE_CHECKS: tuple[Callable[[Recording], Iterator[Finding]], ...] = (
    check_structure,
    check_finite,
    check_time,
    check_pose,
    check_recorded,
    check_pictures,
    check_order,
    check_language,
    check_phase,
    check_discount,
    check_rho,
)
