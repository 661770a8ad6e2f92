"""How actions and motion go together: which command a motion follows, by how much, in which frame; and jumps.

Of each arm, over all episodes, the positions of the end effector or its joints are compared with the commands for them.
Conventions (absolute targets, a gripper that 1 opens) are told as notes; what no convention explains is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.columns import Columns
from gap_vla.core.episode import Episode
from gap_vla.phases.motion import relative_rotation_vector
from gap_vla.rlds.checking.records import Finding

USUAL_LAG = 4
"""Steps by which a controller may answer late; the simulated ones answer after 1 to 3."""
MOST_LAG = 8
"""Steps that a gripper, or an arm that is led by another one, may take to follow."""
FEWEST_STEPS, FEWEST = 30, 3
"""Steps in all from which on commands and motion are compared, and episodes from which on an odd one is told."""
EXPLAINED = 0.3
"""Of the square of an axis' motion, what actions explain at least where their sign, frame and time are judged by it."""
APART = 0.15
"""Of the variance of targets, how much may lie between them and the state that reaches them."""
LARGEST_ANGLE = {"euler_xyz": 7.0, "rotvec": 7.0, "joints": 14.0}
"""Rad that no angle described so reaches; a joint may turn twice."""
HELD_WITHIN, HELD_UNDER = 0.005, 0.02
"""An axis is held if it stays within so many metres, or radians, of its start, and its actions are below the second."""
OFF_SCALE = 1.6
"""A distance per unit of action that differs from the usual one by more than this factor is odd."""
JUMP_FACTOR, JUMP_METRES, JUMP_RADIANS = 5.0, 0.02, 0.3
"""A step is a jump if it is this many times as large as a fast one (`_fast`), and at least this large."""


@dataclasses.dataclass(frozen=True)
class Track:
    """One arm in one episode; `None` is what the columns do not describe."""

    episode: str
    axes: tuple[str, ...]
    state: Float[np.ndarray, "T n"]  # position (m) or joints
    action: Float[np.ndarray, "T n"]  # the commands for these
    quaternion: Float[np.ndarray, "T 4"] | None = None
    turn: Float[np.ndarray, "T 3"] | None = None  # the command for the rotation, a rotation vector
    opening: Float[np.ndarray, " T"] | None = None
    grip: Float[np.ndarray, " T"] | None = None  # the command for the gripper
    in_metres: bool = True  # whether `opening` is one of fingers in metres

    @property
    def moved(self) -> Float[np.ndarray, "S n"]:
        return np.diff(self.state, axis=0)

    @property
    def in_space(self) -> bool:
        return self.axes == ("x", "y", "z")


def tracks_of(name: str, episode: Episode) -> list[Track]:
    """The arms of an episode whose state and action are described in the same terms."""
    if episode.columns is None or episode.action_columns is None or len(episode) < 3:
        return []
    poses = episode.arms if episode.columns.has_pose else ()
    rows = (_parts(episode.columns, episode.proprio), _parts(episode.action_columns, episode.action))
    found = []
    for number, (own, asked) in enumerate(zip(*rows)):
        kind = next((kind for kind in ("position", "joints") if kind in own and kind in asked), None)
        if kind is None or own[kind].shape != asked[kind].shape:
            continue
        axes = ("x", "y", "z") if kind == "position" else tuple(f"joint {i}" for i in range(own[kind].shape[1]))
        turned = kind == "position" and "rotation" in own and "rotvec" in asked
        gripped = "gripper" in own and "gripper" in asked
        found.append(
            Track(
                name,
                axes,
                own[kind],
                asked[kind],
                quaternion=np.asarray(poses[number].quaternion, np.float64) if turned else None,
                turn=asked["rotvec"] if turned else None,
                opening=abs(own["gripper"]).sum(1) if gripped else None,
                grip=asked["gripper"][:, 0] if gripped else None,
                in_metres="gripper_01" not in own,
            )
        )
    return found


def _parts(columns: Columns, rows: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Of each arm its columns by kind, and those of rotations also by word."""
    arms, start = [], 0
    for blocks in columns.arms:
        parts: dict[str, np.ndarray] = {}
        for block in blocks:
            own = rows[:, start : start + block.width].astype(np.float64)
            start += block.width
            parts[block.kind] = np.concatenate([parts[block.kind], own], 1) if block.kind in parts else own
            parts.setdefault(block.word, own)
        arms.append(parts)
    return arms


def check_motion(arm: str, tracks: Sequence[Track]) -> Iterator[Finding]:
    """What one arm's motion says about its actions, over all episodes."""
    yield from _gripper(arm, tracks)
    if sum(len(one.state) for one in tracks) < FEWEST_STEPS:
        return
    command, moved = [one.action for one in tracks], [one.moved for one in tracks]
    if are_targets([one.state for one in tracks], command):
        what = "positions" if tracks[0].in_space else "joints"
        yield Finding("note", "convention", f"{arm}: actions are absolute {what} to move to, not differences")
        return
    late = [*_late(arm, tracks)]
    yield from late
    if late:  # everything below would fail for this reason alone
        return
    yield from _frame(arm, tracks[0].axes, followed(command, moved), moved)
    if all(one.quaternion is not None for one in tracks):
        yield from _rotation(arm, tracks)
    if tracks[0].in_space:
        yield from _scale(arm, tracks)
    yield from _lag(arm, tracks)


# What actions are


def are_targets(states: Sequence[np.ndarray], actions: Sequence[np.ndarray]) -> bool:
    """Whether actions are where to go: where the state is some steps later, or they change as the state does."""
    wide = np.concatenate(actions).var(0).sum()
    for lag in range(MOST_LAG + 1):
        apart = np.concatenate([a[: max(len(a) - lag, 0)] - s[lag:] for s, a in zip(states, actions)])
        if len(apart) > 1 and apart.var(0).sum() < APART * wide:
            return True
    moved = [np.diff(state, axis=0) for state in states]
    changes = followed([np.diff(action, axis=0, prepend=action[:1]) for action in actions], moved)
    as_target = agreement(changes, moved, apart=0)
    return as_target > 0.7 and as_target > agreement(followed(actions, moved), moved) + 0.2


def _late(arm: str, tracks: Sequence[Track]) -> Iterator[Finding]:
    """An error if the action after a step explains the motion of the step better than the action of the step itself."""
    of_now, of_after, explained = _effects(tracks)
    gain = [after - now for now, after, _ in (_effects([one]) for one in tracks)]
    if explained > EXPLAINED and of_after > max(0.5, abs(of_now)) and np.median(gain) > 0:
        detail = f"effect of the next action {of_after:.2f}, of its own {of_now:.2f}"
        text = f"{arm}: the motion of a step follows the action after it; actions are recorded late"
        yield Finding("error", "time", text, detail=detail)


def _effects(tracks: Sequence[Track]) -> tuple[float, float, float]:
    """Regression of motion on the action of the step and the action after it: both effects, and the explained share.

    Each figure is the mean over the axes, weighted by how much each axis moves.
    """
    moved = [one.moved for one in tracks]
    now, performed = scaled([one.action[:-1] for one in tracks], moved)
    after, _ = scaled([one.action[1:] for one in tracks], moved)
    found = []
    for axis in range(now.shape[1]):
        actions = np.stack([now[:, axis], after[:, axis]], 1)
        effect = np.linalg.lstsq(actions, performed[:, axis], rcond=1e-6)[0]
        rest = performed[:, axis] - actions @ effect
        found.append([*effect, 1 - (rest**2).mean()])
    size = np.sqrt((np.concatenate(moved) ** 2).mean(0))
    size *= np.sum(found, axis=1, where=[True, True, False]) > 0  # a flipped axis says nothing about time
    return tuple(np.average(found, axis=0, weights=size).tolist()) if size.any() else (0.0, 0.0, 0.0)


def _frame(
    what: str, axes: Sequence[str], command: Sequence[np.ndarray], moved: Sequence[np.ndarray]
) -> Iterator[Finding]:
    """Axes that move against their actions, or by those of other axes; else actions that do not explain the motion.

    Another frame, such as the hand's, is a convention: a turn changes the sign of two axes. One axis alone is a mirror.
    """
    a, b = scaled(command, moved)
    effect = np.linalg.lstsq(a, b, rcond=1e-6)[0]  # regression, as axes that move together correlate; [action, motion]
    explained = 1 - ((b - a @ effect) ** 2).mean(0)
    flipped, crossed, clear = [], [], 0
    for axis in range(len(axes)):
        own, others = effect[axis, axis], np.delete(effect[axis], axis)
        target = int(abs(effect[axis]).argmax())
        if not a[:, axis].any() or explained[target] < EXPLAINED:
            continue
        clear += 1
        if own < -0.3 and abs(own) >= abs(others).max(initial=0):
            flipped.append(axis)
        elif abs(others).max(initial=0) > max(0.5, abs(own) + 0.3):
            crossed.append(axis)
    names = ", ".join(axes[axis] for axis in flipped or crossed)
    turns = len(axes) == 3 and (crossed or len(flipped) == 2 or clear < 3)
    if flipped and not turns:
        text = f"{what}: {names} moves against its action; the sign of this axis is flipped"
        yield Finding("error", "frame", text)
    elif flipped or crossed:
        text = f"{what}: actions are in another frame than the state (actions of {names} move other ways); "
        yield Finding("warning", "frame", text + "sound if it is meant, as in the hand's frame")
    elif -0.3 <= (fit := agreement(command, moved)) < 0.3:
        text = f"{what}: actions hardly explain the motion; wrong columns, frame, scale or time?"
        yield Finding("warning", "frame", text, detail=f"r {fit:.2f}")


def _rotation(arm: str, tracks: Sequence[Track]) -> Iterator[Finding]:
    """Commanded and performed rotation agree; if they do with the other quaternion order only, that is said."""
    command: list[Any] = [one.turn for one in tracks]
    if np.concatenate(command).std(0).max() < 1e-3:
        return
    quaternions: list[Any] = [one.quaternion for one in tracks]
    rolled = [np.roll(quaternion, 1, axis=1) for quaternion in quaternions]
    performed, swapped = ([relative_rotation_vector(q[:-1], q[1:]) for q in some] for some in (quaternions, rolled))
    here, other = (agreement(followed(command, one), one, apart=0) for one in (performed, swapped))
    if other > 0.5 and here < other - 0.3:
        text = f"{arm}: rotations fit the actions with the other quaternion order only; correct --columns"
        yield Finding("error", "quaternion", text, detail=f"r {here:.2f} as described, {other:.2f} in the other order")
    else:
        yield from _frame(f"{arm}, rotation", "xyz", followed(command, performed), performed)


def _gripper(arm: str, tracks: Sequence[Track]) -> Iterator[Finding]:
    """Which way and in which range grippers are commanded, and episodes that differ in it from most."""
    known: list[Any] = [one for one in tracks if one.grip is not None]
    if not known:
        return
    command, opening = [one.grip[:-1] for one in known], [one.opening for one in known]
    every = np.concatenate(command)
    if np.ptp(every) < 1e-6:
        return
    enough = len(known) >= FEWEST
    lows = np.array([one.min() for one in command])
    varies = np.array([np.ptp(one) > 1e-6 for one in command])
    if enough and np.median(lows) < -0.5:
        text = f"{arm}: gripper actions lie in [0, 1], in most other episodes in [-1, 1]; rescale them with 2x - 1"
        yield from _warnings("gripper", text, known, varies & (lows >= 0))
    follows = _follows(command, opening)
    usual = float(np.nanmedian(follows)) if np.isfinite(follows).any() else 0.0
    if abs(usual) > 0.3:
        ways = ("closes", "opens") if known[0].in_metres else ("lowers", "raises")
        what = "the gripper" if known[0].in_metres else "the gripper's column of the state"
        way, other = ways if usual < 0 else ways[::-1]
        text = f"{arm}: a high gripper action {way} {what}"
        yield Finding("note", "convention", text, detail=f"{every.min():.3g} to {every.max():.3g}")
        if enough:
            text = f"{arm}: a high gripper action {other} {what}, unlike in most other episodes"
            yield from _warnings("gripper", text, known, follows * np.sign(usual) < -0.3)
    dead = [np.ptp(asked) > 0.5 and np.ptp(done) == 0 for asked, done in zip(command, opening)]
    text = f"{arm}: the gripper is commanded and its state never changes; was it recorded?"
    yield from _warnings("gripper", text, known, dead)


def _warnings(
    check: str, text: str, tracks: Sequence[Track], odd: Sequence[bool] | np.ndarray, details: Sequence[str] = ()
) -> Iterator[Finding]:
    """A warning for each episode that is odd."""
    for index in np.flatnonzero(odd).tolist():
        yield Finding("warning", check, text, tracks[index].episode, details[index] if details else "")


def _follows(command: Sequence[np.ndarray], opening: Sequence[np.ndarray]) -> Float[np.ndarray, " E"]:
    """The correlation of each episode's gripper command with its opening, or with the change of its opening, at the lag
    at which all episodes together correlate most. NaN: the gripper does not move."""
    strongest, found = -1.0, np.full(len(command), np.nan)
    for opened in (opening, [np.diff(one, append=one[-1]) for one in opening]):
        for lag in range(MOST_LAG + 1):
            own = np.array([_pearson(c[: max(len(c) - lag, 0)], o[lag : len(c)]) for c, o in zip(command, opened)])
            if np.isfinite(own).any() and abs(np.nanmean(own)) > strongest:
                strongest, found = abs(np.nanmean(own)), own
    return found


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation; NaN where one of them does not vary."""
    if len(a) < 3 or np.ptp(a) < 1e-6 or np.ptp(b) < 1e-6:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


# Episodes beside the others


def _scale(arm: str, tracks: Sequence[Track]) -> Iterator[Finding]:
    """One unit of action moves every episode, and every axis, by about the same distance, and the same way."""
    moved = [one.moved for one in tracks]
    command = followed([one.action for one in tracks], moved)
    gains = np.array([_gain(c, m) for c, m in zip(command, moved)])
    if len(tracks) >= FEWEST and np.isfinite(gains).any():
        usual = np.nanquantile(gains, 0.5, method="higher")
        odd = (gains / usual > OFF_SCALE) | (gains / usual < 1 / OFF_SCALE)
        if 2 * odd.sum() < np.isfinite(gains).sum():
            text = f"{arm}: one unit of action moves another distance than in most episodes; other units or frame?"
            details = [f"{gain:.2g} m, usually {usual:.2g} m" for gain in gains]
            yield from _warnings("scale", text, tracks, odd, details)
    a, m = np.concatenate(command), np.concatenate(moved)
    by_axis = abs(np.array([_gain(a[:, i : i + 1], m[:, i : i + 1]) for i in range(3)]))
    if np.isfinite(by_axis).sum() > 1 and np.nanmax(by_axis) > 4 * np.nanmin(by_axis):
        shown = ", ".join(f"{name} {gain:.2g}" for name, gain in zip("xyz", by_axis))
        text = f"{arm}: one unit of action moves the axes by different distances; one is in other units"
        yield Finding("warning", "scale", text, detail=f"{shown} m")


def _lag(arm: str, tracks: Sequence[Track]) -> Iterator[Finding]:
    """Motion follows the actions by the same few steps in every episode."""
    lags = range(-10, 11)
    fits = np.array([[_at_lag(one, lag) for lag in lags] for one in tracks])
    best, clear = np.array(lags)[fits.argmax(1)], fits.max(1) > 0.5
    if 2 * clear.sum() <= len(tracks):
        return
    usual = int(np.quantile(best[clear], 0.5, method="higher"))
    at_usual = fits[:, lags.index(usual)]
    odd = clear & (abs(best - usual) > 1) & (at_usual > -1) & (fits.max(1) - at_usual > 0.1)
    if len(tracks) >= FEWEST:
        text = f"{arm}: motion follows the actions by another number of steps than in most episodes; shifted in time?"
        yield from _warnings("time", text, tracks, odd, [f"{lag}, usually {usual}" for lag in best])
    if usual < -1:
        text = f"{arm}: motion comes {-usual} steps before its actions; these are recorded late"
        yield Finding("error", "time", text)
    elif usual > USUAL_LAG:
        yield Finding("warning", "time", f"{arm}: motion follows the actions by {usual} steps; recorded early?")


def _at_lag(one: Track, lag: int) -> float:
    """Correlation of motion with the action `lag` steps before it; -1 if fewer than 20 steps remain."""
    command, moved = one.action[:-1], one.moved
    if len(moved) - abs(lag) < 20:
        return -1.0
    before = command[max(0, -lag) : len(command) - max(0, lag)]
    return _correlation(before, moved[max(0, lag) : len(moved) - max(0, -lag)])


# Jumps


def check_units(name: str, episode: Episode) -> Iterator[Finding]:
    """Angles that are described in rad are not degrees."""
    start = 0
    for number, blocks in enumerate(episode.columns.arms if episode.columns else ()):
        for block in blocks:
            largest = abs(episode.proprio[:, start : start + block.width]).max()
            start += block.width
            if largest > LARGEST_ANGLE.get(block.word, np.inf):
                text = f"arm {number}: {block.word} is described in rad; are these degrees? correct --columns"
                yield Finding("error", "unit", text, name, f"up to {largest:.4g}")


def check_jumps(name: str, episode: Episode) -> Iterator[Finding]:
    """Positions and rotations move without jumps; quaternions have length one and do not flip their sign."""
    columns = episode.columns
    if columns is None or not columns.has_pose:
        return
    for number, (pose, blocks) in enumerate(zip(episode.arms, columns.arms)):
        arm = f"arm {number}"
        moved = np.linalg.norm(np.diff(pose.position.astype(np.float64), axis=0), axis=1)
        yield from _jump(name, moved, JUMP_METRES, f"{arm} moves", "m")
        if not any(block.kind == "rotation" for block in blocks):
            continue
        quaternion = np.asarray(pose.quaternion, np.float64)
        length = np.linalg.norm(quaternion, axis=1)
        if abs(length - 1).max() > 0.05:
            text = f"{arm}: quaternions have not the length one; these columns are no quaternion, correct --columns"
            step = int(abs(length - 1).argmax())
            yield Finding("error", "quaternion", text, name, f"step {step}: length {length[step]:.3g}")
            continue
        turned = np.linalg.norm(relative_rotation_vector(quaternion[:-1], quaternion[1:]), axis=1)
        yield from _jump(name, turned, JUMP_RADIANS, f"{arm} turns", "rad")
        flips = np.flatnonzero((quaternion[1:] * quaternion[:-1]).sum(1) < 0) + 1
        if len(flips) and any(block.word.startswith("quat") for block in blocks):
            text = f"{arm}: the quaternion changes its sign (same pose, other numbers); force one hemisphere"
            yield Finding("warning", "quaternion", text, name, f"{len(flips)} times, first at step {flips[0]}")


def _jump(name: str, size: Float[np.ndarray, " S"], least: float, what: str, unit: str) -> Iterator[Finding]:
    """The largest step of an episode, if it is far larger than its fast ones."""
    if len(size) > 2 and size.max() > max(least, JUMP_FACTOR * _fast(size)):
        text = f"{what} far in one step; frames missing, or a tracking error"
        detail = f"step {int(size.argmax()) + 1}: {size.max():.3g} {unit}, usually {np.median(size):.2g}"
        yield Finding("warning", "jump", text, name, detail)


def _fast(size: Float[np.ndarray, " S"]) -> float:
    """The 95th percentile of all but the two largest."""
    return float(np.quantile(np.sort(size)[:-2], 0.95))


# Arithmetic


def followed(command: Sequence[np.ndarray], moved: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What each step's motion follows: the command so many steps before, up to `USUAL_LAG`, that explains it best; of
    the step itself, unless another does clearly better. On a circle, a command and what it does later differ in frame.
    """
    late = [
        [np.concatenate([np.zeros((lag, c.shape[1])), c])[: len(m)] for c, m in zip(command, moved)]
        for lag in range(USUAL_LAG + 1)
    ]
    fits = []
    for one in late:  # by any axes and signs: these are what is judged
        a, b = scaled(one, moved)
        fits.append(1 - ((b - a @ np.linalg.lstsq(a, b, rcond=1e-6)[0]) ** 2).sum() / max((b**2).sum(), 1e-12))
    best = int(np.argmax(fits))
    return late[best if fits[best] > max(0.25, fits[0] + 0.2) else 0]


def agreement(command: Sequence[np.ndarray], moved: Sequence[np.ndarray], apart: float = 1) -> float:
    """Correlation of commanded with performed motion, mean over the axes that both use, by how much each moves; `apart`
    where they use others, and 1 where one of them uses none.
    """
    a, b = scaled(command, moved)
    asked, done = abs(a).max(0) > 0, abs(b).max(0) > 0
    if (asked & done).any():
        size = np.sqrt((np.concatenate(moved) ** 2).mean(0))
        return float(np.average((a * b).mean(0)[asked & done], weights=size[asked & done]))
    return float(apart) if asked.any() and done.any() else 1.0


def scaled(command: Sequence[np.ndarray], moved: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both over all episodes, each axis divided by its root mean square; unused axes, and those held, are zero."""
    a = np.concatenate([c[: len(m)] for c, m in zip(command, moved)])
    b = np.concatenate(moved)
    size_a, size_b = np.sqrt((a**2).mean(0)), np.sqrt((b**2).mean(0))
    away = np.max([abs(np.cumsum(m, axis=0)).max(0) for m in moved], axis=0)
    held = (away < HELD_WITHIN) & (size_a < HELD_UNDER)  # what is left is noise
    return (
        np.where(size_a > 1e-6, a / np.maximum(size_a, 1e-6), 0),
        np.where((size_b > 1e-9) & ~held, b / np.maximum(size_b, 1e-9), 0),
    )


def _gain(command: np.ndarray, moved: np.ndarray) -> float:
    """Distance per unit of action; NaN where the action does not explain the motion."""
    explains = abs(_correlation(command, moved)) >= 0.5
    return float((command * moved).mean() / (command**2).mean()) if explains else float("nan")


def _correlation(command: np.ndarray, moved: np.ndarray) -> float:
    """Of what was commanded with what was done, about zero; 0 where either is nothing."""
    size_a, size_b = np.sqrt((command**2).mean()), np.sqrt((moved**2).mean())
    return float((command * moved).mean() / (size_a * size_b)) if size_a >= 1e-6 and size_b >= 1e-9 else 0.0
