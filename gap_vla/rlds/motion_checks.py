"""How actions and motion go together: which command a motion follows, by how much, in which frame; and jumps.

Of each arm, over all episodes, the positions of the end effector or its joints are compared with the commands for them.
Conventions (absolute targets, a gripper that 1 opens) are told as notes; what no convention explains is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.core.episode import Episode
from gap_vla.phases.motion import relative_rotation_vector
from gap_vla.rlds.checks import Finding

USUAL_LAG = 4
"""Steps by which a controller may answer late; the simulated ones answer after 1 to 3."""
MOST_LAG = 8
"""Steps that a gripper, or an arm that is led by another one, may take to follow."""
LAGS = range(-10, 11)
"""Steps by which motion is sought behind its actions."""
FEWEST_STEPS = 30
"""Steps in all from which on commands and motion are compared."""
EXPLAINED = 0.3
"""Of the square of an axis' motion, what actions explain at least where their sign and frame are judged by it."""
APART = 0.15
"""Of the variance of targets, how much may lie between them and the state that reaches them."""
LARGEST_ANGLE = {"euler_xyz": 7.0, "rotvec": 7.0, "joints": 14.0}
"""Rad that no angle described so reaches; a joint may turn twice."""
HELD_WITHIN, HELD_UNDER = 0.005, 0.02
"""An axis is held if it stays within so many metres, or radians, of its start, and its actions are below the second."""
JUMP_FACTOR, JUMP_METRES, JUMP_RADIANS = 5.0, 0.02, 0.3
"""A step is a jump if it is this many times as large as a fast one (`_jump`), and at least this large."""

Rows = list[np.ndarray]
"""One array an episode, float64[T, n] or [T]; no array where the columns do not describe it."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm over all episodes."""

    name: str
    axes: tuple[str, ...]
    state: Rows  # position (m) or joints
    action: Rows  # the commands for these
    quaternion: Rows
    turn: Rows  # the commands for the rotation, rotation vectors
    opening: Rows
    grip: Rows  # the commands for the gripper
    in_metres: bool  # whether `opening` is one of fingers in metres

    @property
    def moved(self) -> Rows:
        return [np.diff(state, axis=0) for state in self.state]


def arms_of(kept: Sequence[Episode]) -> list[Arm]:
    """The arms whose state and action are described in the same terms, from episodes of equal columns."""
    episodes = [episode for episode in kept if len(episode) >= 3]
    first = next(iter(episodes), None)
    if first is None or first.columns is None or first.action_columns is None:
        return []
    poses = [episode.arms for episode in episodes] if first.columns.has_pose else []
    arms = []
    for number in range(min(len(first.columns.arms), len(first.action_columns.arms))):
        kinds = ("position", "joints", "rotation", "rotvec", "gripper", "gripper_01")
        own = {kind: first.columns.by_arm(kind)[number] for kind in kinds}
        asked = {kind: first.action_columns.by_arm(kind)[number] for kind in kinds}
        kind = next((kind for kind in ("position", "joints") if own[kind] and asked[kind]), None)
        if kind is None or len(own[kind]) != len(asked[kind]):
            continue
        turns = kind == "position" and own["rotation"] and asked["rotvec"]
        grips = own["gripper"] and asked["gripper"]
        states = [episode.proprio.astype(np.float64) for episode in episodes]
        actions = [episode.action.astype(np.float64) for episode in episodes]
        arm = Arm(
            name=f"arm {number}",
            axes=("x", "y", "z") if kind == "position" else tuple(f"joint {i}" for i in range(len(own[kind]))),
            state=[state[:, own[kind]] for state in states],
            action=[action[:, asked[kind]] for action in actions],
            quaternion=[np.asarray(pose[number].quaternion, np.float64) for pose in poses] if turns else [],
            turn=[action[:, asked["rotvec"]] for action in actions] if turns else [],
            opening=[abs(state[:, own["gripper"]]).sum(1) for state in states] if grips else [],
            grip=[action[:-1, asked["gripper"][0]] for action in actions] if grips else [],
            in_metres=not own["gripper_01"],
        )
        arms.append(arm)
    return arms


def check_motion(arm: Arm) -> Iterator[Finding]:
    """What one arm's motion says about its actions, over all episodes."""
    yield from _gripper(arm)
    if sum(map(len, arm.state)) < FEWEST_STEPS:
        return
    if are_targets(arm.state, arm.action):
        what = "positions" if arm.axes == ("x", "y", "z") else "joints"
        yield Finding("note", "convention", f"{arm.name}: actions are absolute {what} to move to, not differences")
        return
    time = [*_time(arm)]
    yield from time
    if any(one.level == "error" for one in time):  # everything below would fail for this reason alone
        return
    yield from _frame(arm.name, arm.axes, followed(arm.action, arm.moved), arm.moved)
    if arm.turn:
        yield from _rotation(arm)


def are_targets(states: Sequence[np.ndarray], actions: Sequence[np.ndarray]) -> bool:
    """Whether actions are where to go: where the state is some steps later, or they change as the state does."""
    wide = np.concatenate(actions).var(0).sum()
    for lag in range(MOST_LAG + 1):
        pairs = [behind(action, state, lag) for state, action in zip(states, actions)]
        apart = np.concatenate([action - state for action, state in pairs])
        if len(apart) > 1 and apart.var(0).sum() < APART * wide:
            return True
    moved = [np.diff(state, axis=0) for state in states]
    changes = followed([np.diff(action, axis=0, prepend=action[:1]) for action in actions], moved)
    as_target = agreement(changes, moved, apart=0)
    return as_target > 0.7 and as_target > agreement(followed(actions, moved), moved) + 0.2


def _time(arm: Arm) -> Iterator[Finding]:
    """Motion follows the actions by a few steps; an error if it comes before them."""
    fits = [explained(arm.action, arm.moved, lag) for lag in LAGS]
    usual = LAGS[int(np.argmax(fits))]
    if max(fits) < EXPLAINED:
        return
    if usual < 0:
        text = f"{arm.name}: motion comes {-usual} steps before its actions; these are recorded late"
        yield Finding("error", "time", text)
    elif usual > USUAL_LAG:
        yield Finding("warning", "time", f"{arm.name}: motion follows the actions by {usual} steps; recorded early?")


def _frame(what: str, axes: Sequence[str], command: Rows, moved: Rows) -> Iterator[Finding]:
    """Axes that move against their actions, or by those of other axes; else actions that do not explain the motion.

    Another frame, such as the hand's, is a convention: a turn changes the sign of two axes. One axis alone is a mirror.
    """
    a, b = scaled(command, moved)
    effect = np.linalg.lstsq(a, b, rcond=1e-6)[0]  # regression, as axes that move together correlate; [action, motion]
    explained = 1 - ((b - a @ effect) ** 2).mean(0)
    flipped, crossed, clear = [], [], 0
    for axis in range(len(axes)):
        own, others = effect[axis, axis], np.delete(effect[axis], axis)
        if not a[:, axis].any() or explained[abs(effect[axis]).argmax()] < EXPLAINED:
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
        yield Finding("warning", "frame", text, f"r {fit:.2f}")


def _rotation(arm: Arm) -> Iterator[Finding]:
    """Commanded and performed rotation agree; if they do with the other quaternion order only, that is said."""
    if np.concatenate(arm.turn).std(0).max() < 1e-3:
        return
    rolled = [np.roll(quaternion, 1, axis=1) for quaternion in arm.quaternion]
    performed, swapped = ([relative_rotation_vector(q[:-1], q[1:]) for q in some] for some in (arm.quaternion, rolled))
    here, other = (agreement(followed(arm.turn, one), one, apart=0) for one in (performed, swapped))
    if other > 0.5 and here < other - 0.3:
        text = f"{arm.name}: rotations fit the actions with the other quaternion order only; correct --columns"
        yield Finding("error", "quaternion", text, f"r {here:.2f} as described, {other:.2f} in the other order")
    else:
        yield from _frame(f"{arm.name}, rotation", "xyz", followed(arm.turn, performed), performed)


def _gripper(arm: Arm) -> Iterator[Finding]:
    """Which way and in which range the gripper is commanded: a convention."""
    if not arm.grip or np.ptp(every := np.concatenate(arm.grip)) < 1e-6:
        return
    usual = float(np.median(_follows(arm.grip, arm.opening)))
    if abs(usual) > 0.3:
        closes, opens = ("closes", "opens") if arm.in_metres else ("lowers", "raises")
        what = "the gripper" if arm.in_metres else "the gripper's column of the state"
        text = f"{arm.name}: a high gripper action {closes if usual < 0 else opens} {what}"
        yield Finding("note", "convention", text, f"{every.min():.3g} to {every.max():.3g}")


def _follows(command: Rows, opening: Rows) -> Float[np.ndarray, " E"]:
    """The correlation of each episode's gripper command with its opening, or with the change of its opening, at the lag
    at which all episodes together correlate most; 0: the gripper does not move."""
    found = np.zeros(len(command))
    for opened in (opening, [np.diff(one, append=one[-1]) for one in opening]):
        for lag in range(MOST_LAG + 1):
            pairs = [behind(*pair, lag) for pair in zip(command, opened)]
            own = [_correlation(c - c.mean(), o - o.mean()) if len(c) > 2 else 0.0 for c, o in pairs]
            found = max(found, np.array(own), key=lambda one: abs(one.mean()))
    return found


# One episode


def check_units(episode: Episode) -> Iterator[Finding]:
    """Angles that are described in rad are not degrees."""
    start = 0
    for number, blocks in enumerate(episode.columns.arms if episode.columns else ()):
        for block in blocks:
            largest = abs(episode.proprio[:, start : start + block.width]).max()
            start += block.width
            if largest > LARGEST_ANGLE.get(block.word, np.inf):
                text = f"arm {number}: {block.word} is described in rad; are these degrees? correct --columns"
                yield Finding("error", "unit", text, f"up to {largest:.4g}")


def check_jumps(episode: Episode) -> Iterator[Finding]:
    """Positions and rotations move without jumps; quaternions have length one and do not flip their sign."""
    if episode.columns is None or not episode.columns.has_pose:
        return
    for number, (pose, blocks) in enumerate(zip(episode.arms, episode.columns.arms)):
        arm = f"arm {number}"
        moved = np.linalg.norm(np.diff(pose.position.astype(np.float64), axis=0), axis=1)
        yield from _jump(moved, JUMP_METRES, f"{arm} moves", "m")
        if not any(block.kind == "rotation" for block in blocks):
            continue
        quaternion = np.asarray(pose.quaternion, np.float64)
        length = np.linalg.norm(quaternion, axis=1)
        if abs(length - 1).max() > 0.05:
            text = f"{arm}: quaternions have not the length one; these columns are no quaternion, correct --columns"
            step = int(abs(length - 1).argmax())
            yield Finding("error", "quaternion", text, f"step {step}: length {length[step]:.3g}")
            continue
        turned = np.linalg.norm(relative_rotation_vector(quaternion[:-1], quaternion[1:]), axis=1)
        yield from _jump(turned, JUMP_RADIANS, f"{arm} turns", "rad")
        flips = np.flatnonzero((quaternion[1:] * quaternion[:-1]).sum(1) < 0) + 1
        if len(flips) and any(block.word in ("quat_wxyz", "quat_xyzw") for block in blocks):
            text = f"{arm}: the quaternion changes its sign (same pose, other numbers); force one hemisphere"
            yield Finding("warning", "quaternion", text, f"{len(flips)} times, first at step {flips[0]}")


def _jump(size: Float[np.ndarray, " S"], least: float, what: str, unit: str) -> Iterator[Finding]:
    """The largest step of an episode, if it is far larger than a fast one: the 95th percentile of all but two."""
    if len(size) > 2 and size.max() > max(least, JUMP_FACTOR * np.quantile(np.sort(size)[:-2], 0.95)):
        text = f"{what} far in one step; frames missing, or a tracking error"
        detail = f"step {int(size.argmax()) + 1}: {size.max():.3g} {unit}, usually {np.median(size):.2g}"
        yield Finding("warning", "jump", text, detail)


# Arithmetic


def behind(command: np.ndarray, moved: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Both cut so that each motion stands beside the command `lag` steps before it."""
    steps = max(min(len(command), len(moved)) - abs(lag), 0)
    return command[max(-lag, 0) :][:steps], moved[max(lag, 0) :][:steps]


def explained(command: Sequence[np.ndarray], moved: Sequence[np.ndarray], lag: int) -> float:
    """The share of the motion's square that the command `lag` steps before it explains, by any axes and signs; 0 if
    fewer than 20 steps remain."""
    pairs = [behind(*pair, lag) for pair in zip(command, moved)]
    a, b = scaled(*zip(*pairs))
    if len(b) < 20 or not b.any():
        return 0.0
    return float(1 - ((b - a @ np.linalg.lstsq(a, b, rcond=1e-6)[0]) ** 2).sum() / (b**2).sum())


def followed(command: Sequence[np.ndarray], moved: Sequence[np.ndarray]) -> Rows:
    """What each step's motion follows: the command so many steps before, up to `USUAL_LAG`, that explains it best; of
    the step itself, unless another does clearly better. On a circle, a command and what it does later differ in frame.
    """
    fits = [explained(command, moved, lag) for lag in range(USUAL_LAG + 1)]
    best = int(np.argmax(fits))
    lag = best if fits[best] > max(0.25, fits[0] + 0.2) else 0
    return [np.concatenate([np.zeros((lag, c.shape[1])), c])[: len(m)] for c, m in zip(command, moved)]


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
    size_a, size_b = (np.sqrt((rows**2).sum(0) / max(len(rows), 1)) for rows in (a, b))
    away = np.max([abs(np.cumsum(m, axis=0)).max(0, initial=0) for m in moved], axis=0)
    held = (away < HELD_WITHIN) & (size_a < HELD_UNDER)  # what is left is noise
    return (
        np.where(size_a > 1e-6, a / np.maximum(size_a, 1e-6), 0),
        np.where((size_b > 1e-9) & ~held, b / np.maximum(size_b, 1e-9), 0),
    )


def _correlation(command: np.ndarray, moved: np.ndarray) -> float:
    """Of what was commanded with what was done, about zero; 0 where either is nothing."""
    size_a, size_b = np.linalg.norm(command), np.linalg.norm(moved)
    return float((command * moved).sum() / (size_a * size_b)) if size_a >= 1e-6 and size_b >= 1e-9 else 0.0
