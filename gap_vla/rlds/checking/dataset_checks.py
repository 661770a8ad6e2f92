"""Checks over all episodes: conventions of actions against states, duplicates, ranges. They see low-dim data only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from gap_vla.core.episode import LARGEST_ACTION
from gap_vla.phases.motion import relative_rotation_vector
from gap_vla.rlds.checking.report import Finding, Recording

ACTION_PER_ARM = 7
_STILL = 0.02
"""Metres in an episode that an arm may drift while it is held."""
_OFF_SCALE = 4.0
"""Distances per unit of action that differ by more than this are not wear or friction."""
_EXPLAINED, _UNEXPLAINED, _USED = 0.4, 0.8, 0.5
"""Of the motion's square, what the actions leave in most episodes and in an odd one, and an odd one's least action and
motion as shares of the usual; seven of the simulated tasks reach 0.42, 0.76 and, where 0.76 is reached, 0.38."""


def check_duplicates(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """No episode occurs twice; across splits that would leak validation data."""
    seen: dict[bytes, str] = {}
    for episode in episodes:
        state = episode.proprio if episode.proprio is not None else np.zeros(0)
        key = hashlib.sha256(episode.action.tobytes() + state.tobytes()).digest()
        if key in seen:
            leak = seen[key].split("[")[0] != episode.name.split("[")[0]
            text = f"same actions and states as {seen[key]}" + ("; the splits overlap" if leak else "; drop one")
            yield Finding("error" if leak else "warning", "duplicate", text, episode.name)
        seen.setdefault(key, episode.name)


def check_ranges(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Actions are within their limit, and each dimension varies."""
    actions = np.concatenate([e.action for e in episodes])
    actions = actions[np.isfinite(actions).all(1)]
    if not len(actions):
        return
    for episode in episodes:
        most = LARGEST_ACTION if episode.action_limit is None else episode.action_limit
        beyond = abs(np.nan_to_num(episode.action, posinf=0, neginf=0)) > 1.001 * most
        if beyond.any():
            step, column = np.argwhere(beyond)[0]
            text = (
                f"action dimension {column} is {episode.action[step, column]:.3g}, outside of [-{most:g}, {most:g}]; "
                "rescale it, or state the largest action that the controller means with --action-limit"
            )
            yield Finding("error", "range", text, episode.name, int(step))
    constant = np.flatnonzero(actions.std(0) < 1e-6)
    if len(constant):
        text = f"action dimensions {constant.tolist()} never change; they are left out of normalisation"
        yield Finding("note", "range", text)


def check_gripper(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """+1 closes: the opening shrinks while the gripper action is high."""
    for arm, states, actions in _per_arm(episodes):
        command = np.concatenate([a[:-1, 6] for a in actions])
        if len(command) and command.min() >= 0 and command.max() <= 1 and command.std() > 0.01:
            text = f"arm {arm}: gripper actions lie in [0, 1], not [-1, 1]; rescale with 2x - 1"
            yield Finding("warning", "gripper", text)
        change = np.concatenate([np.diff(abs(s[:, 7:9]).sum(1)) for s in states])
        moving = abs(change) > 0.02 * max(abs(np.concatenate([s[:, 7:9] for s in states])).sum(1).max(), 1e-9)
        if moving.sum() < 5 or command.std() < 1e-3:
            continue
        middle = (command.max() + command.min()) / 2
        closes = np.mean(np.sign(command[moving] - middle) == -np.sign(change[moving]))
        if closes < 0.3:
            text = (
                f"arm {arm}: a high gripper action opens the gripper; here +1 closes: negate the last action dimension"
            )
            yield Finding("error", "gripper", text)
        elif closes < 0.7:
            text = f"arm {arm}: gripper actions and opening agree in {closes:.0%} of the moving steps only"
            yield Finding("warning", "gripper", text)


def check_translation(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Commanded and performed translation have the same frame, sign and time."""
    for arm, states, actions in _per_arm(episodes):
        command = [a[:, :3] for a in actions]
        moved = [np.diff(s[:, :3], axis=0) for s in states]
        yield from _frame_and_sign(f"arm {arm} translation", command, moved)
        yield from _time_shift(arm, command, moved)
        path = max(np.linalg.norm(m, axis=1).sum() for m in moved)
        if np.concatenate(command).std(0).max() < 1e-6 and path > _STILL:
            text = f"arm {arm}: it moves {path:.2g} m in an episode, and its translation is never commanded"
            yield Finding("warning", "frame", text)
        absolute = _mean_distance([c[:-1] - s[1:, :3] for c, s in zip(command, states)])
        if absolute < 0.02 and _mean_distance([c[:-1] for c in command]) > 0.1:
            text = f"arm {arm}: actions look like absolute positions, not differences; convert them to differences"
            yield Finding("error", "frame", text)


def check_rotation(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Commanded and performed rotation agree; if they do with the other quaternion order only, that is said."""
    for arm, states, actions in _per_arm(episodes):
        command = [a[:, 3:6] for a in actions]
        if np.concatenate(command).std(0).max() < 1e-3:
            continue
        turned = [relative_rotation_vector(s[:-1, 3:7], s[1:, 3:7]) for s in states]
        rolled = [np.roll(s[:, 3:7], 1, axis=1) for s in states]
        swapped = [relative_rotation_vector(q[:-1], q[1:]) for q in rolled]
        here, other = _agreement(command, turned), _agreement(command, swapped)
        if other > 0.5 and here < other - 0.3:
            text = f"arm {arm}: rotations fit the actions with the other quaternion order only (r {here:.2f} against "
            yield Finding("error", "quaternion", text + f"{other:.2f}); the columns are xyzw where wxyz is expected")
        else:
            yield from _frame_and_sign(f"arm {arm} rotation", command, turned)


def check_scale(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """One unit of action moves every episode, and every axis in it, by about the same distance, and the same way."""
    for arm, states, actions in _per_arm(episodes):
        moved = [np.diff(s[:, :3], axis=0) for s in states]
        command = [a[: len(m), :3] for a, m in zip(actions, moved)]
        odd: dict[int, Finding] = {}
        for axis, columns in {"": slice(0, 3), " x": slice(0, 1), " y": slice(1, 2), " z": slice(2, 3)}.items():
            found = _odd_episodes(axis, [c[:, columns] for c in command], [m[:, columns] for m in moved])
            for index, check, text in found:
                text = f"arm {arm}, usable episode {index}: {text}"
                odd.setdefault(index, Finding("warning", check, text))
        yield from odd.values()
        a, m = np.concatenate(command), np.concatenate(moved)
        axes = abs(np.array([_gain(a[:, i : i + 1], m[:, i : i + 1]) for i in range(3)]))
        if np.isfinite(axes).sum() > 1 and np.nanmax(axes) > _OFF_SCALE * np.nanmin(axes):
            shown = ", ".join(f"{name} {gain:.2g}" for name, gain in zip("xyz", axes))
            text = f"arm {arm}: one unit of action moves the axes by different distances ({shown} m); one is in other "
            yield Finding("warning", "scale", text + "units")


def _odd_episodes(
    axis: str, command: list[np.ndarray], moved: list[np.ndarray]
) -> Iterator[tuple[int, Literal["frame", "scale"], str]]:
    """Episodes (index, check, text) in which a unit of action does something else than in most."""
    gains = np.array([_gain(c, m) for c, m in zip(command, moved)])
    usual = np.nanquantile(gains, 0.5, method="higher") if np.isfinite(gains).any() else np.nan
    for index in np.flatnonzero((gains / usual > _OFF_SCALE) | (gains / usual < 1 / _OFF_SCALE)):
        check: Literal["frame", "scale"] = "frame" if gains[index] * usual < 0 else "scale"
        text = f"one unit of action{axis} moves {gains[index]:.2g} m, in most others {usual:.2g} m; these actions have "
        yield int(index), check, text + f"another {check}"
    sizes = np.array([[(c**2).mean(), (m**2).mean()] for c, m in zip(command, moved)])
    used = (np.sqrt(sizes / np.maximum(np.median(sizes, 0), 1e-18)) > _USED).all(1)
    left = np.array([((m - usual * c) ** 2).mean() for c, m in zip(command, moved)]) / np.maximum(sizes[:, 1], 1e-18)
    if np.median(left) < _EXPLAINED:
        for index in np.flatnonzero(used & (left > _UNEXPLAINED)):
            text = f"action{axis} does not explain the motion ({left[index]:.0%} of it is left, in most others "
            yield int(index), "frame", text + f"{np.median(left):.0%}); another frame, or another episode's actions"


def _gain(command: np.ndarray, moved: np.ndarray) -> float:
    """Distance per unit of action; NaN where the action does not explain the motion."""
    explains = abs(_correlation(command, moved)) >= 0.5
    return float((command * moved).mean() / (command**2).mean()) if explains else float("nan")


def _correlation(command: np.ndarray, moved: np.ndarray) -> float:
    """Of what was commanded with what was done, about zero; 0 where either is nothing."""
    size_a, size_b = np.sqrt((command**2).mean()), np.sqrt((moved**2).mean())
    return float((command * moved).mean() / (size_a * size_b)) if size_a >= 1e-6 and size_b >= 1e-9 else 0.0


def _per_arm(episodes: Sequence[Recording]) -> Iterator[tuple[int, list[np.ndarray], list[np.ndarray]]]:
    usable = [
        e
        for e in episodes
        if e.proprio is not None
        and len(e) > 2
        and e.action.shape[1] == ACTION_PER_ARM * e.arms
        and np.isfinite(e.proprio).all()
        and np.isfinite(e.action).all()
    ]
    if not usable:
        return
    for arm in range(min(e.arms for e in usable)):
        states = [e.proprio[:, 9 * arm : 9 * arm + 9].astype(np.float64) for e in usable]  # type: ignore[index]
        actions = [e.action[:, 7 * arm : 7 * arm + 7].astype(np.float64) for e in usable]
        yield arm, states, actions


def _agreement(command: list[np.ndarray], moved: list[np.ndarray]) -> float:
    """Correlation of commanded with performed motion, mean over the axes that are used."""
    a, b = _scaled(command, moved)
    live = (abs(a).max(0) > 0) & (abs(b).max(0) > 0)
    return float((a * b).mean(0)[live].mean()) if live.any() else 1.0


def _scaled(command: list[np.ndarray], moved: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both over all episodes, each axis divided by its root mean square; unused axes are zero."""
    a = np.concatenate([c[: len(m)] for c, m in zip(command, moved)])
    b = np.concatenate(moved)
    size_a, size_b = np.sqrt((a**2).mean(0)), np.sqrt((b**2).mean(0))
    return (
        np.where(size_a > 1e-6, a / np.maximum(size_a, 1e-6), 0),
        np.where(size_b > 1e-9, b / np.maximum(size_b, 1e-9), 0),
    )


def _frame_and_sign(what: str, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[Finding]:
    a, b = _scaled(command, moved)
    # Regression, not correlation: where x and y mostly move together, each correlates with both.
    effect = np.linalg.lstsq(a, b, rcond=1e-6)[0]  # [action axis, motion axis]
    explained = 1 - ((b - a @ effect) ** 2).mean(0)
    for axis, name in enumerate("xyz"):
        own, others = effect[axis, axis], np.delete(effect[axis], axis)
        target = int(abs(effect[axis]).argmax())
        if explained[target] < 0.3:
            continue
        if own < -0.3 and abs(own) >= abs(others).max():
            text = f"{what}: {name} moves against its action (effect {own:.2f}); the sign of this axis is flipped"
            yield Finding("error", "frame", text)
        elif abs(others).max() > 0.5 and abs(others).max() > abs(own) + 0.3:
            text = f"{what}: action {name} moves axis {'xyz'[target]} (effect {effect[axis, target]:.2f}, on its own "
            yield Finding("error", "frame", text + f"{own:.2f}); actions and states are in different frames")
    agreement = _agreement(command, moved)
    if -0.3 <= agreement < 0.3:
        text = f"{what}: actions hardly explain the motion (r {agreement:.2f}); wrong frame, scale or time?"
        yield Finding("warning", "frame", text)


def _time_shift(arm: int, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[Finding]:
    """Motion follows from the action before it. If, both given, the action *after* it tells more, actions are late."""
    now, moved_now = _scaled([c[:-1] for c in command], [m[: len(c) - 1] for c, m in zip(command, moved)])
    after, _ = _scaled([c[1:] for c in command], [m[: len(c) - 1] for c, m in zip(command, moved)])
    effects = [
        np.linalg.lstsq(np.stack([now[:, axis], after[:, axis]], 1), moved_now[:, axis], rcond=1e-6)[0]
        for axis in range(3)
        if now[:, axis].any() and moved_now[:, axis].any()
    ]
    if not effects:
        return
    of_now, of_after = np.mean(effects, axis=0)
    if of_after > 0.5 and of_after > of_now:
        text = f"arm {arm}: the motion of a step follows the action after it (effect {of_after:.2f}) more than its own "
        yield Finding("error", "time", text + f"({of_now:.2f}); actions are recorded late")


def _mean_distance(differences: list[np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate(differences), axis=1).mean())


DATASET_CHECKS: tuple[Callable[[Sequence[Recording]], Iterator[Finding]], ...] = (
    check_duplicates,
    check_ranges,
    check_translation,
    check_rotation,
    check_gripper,
    check_scale,
)
