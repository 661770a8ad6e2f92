"""Checks over all episodes: conventions of actions against states, duplicates, ranges. They see low-dim data only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from gap_vla.core.episode import LARGEST_ACTION
from gap_vla.phases.motion import relative_rotation_vector
from gap_vla.rlds.checking.report import Finding, Recording
from gap_vla.rlds.statistics import MIN_STD

ACTION_PER_ARM = 7
SHARED = 20
"""Steps in a row that two episodes do not have in common by chance."""
_APART = 10
"""Steps between the parts of an episode that are remembered; of later episodes every part is compared with them."""


def check_duplicates(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """No episode, and no part of one, occurs twice; across splits that would leak validation data."""
    seen: dict[tuple[str, bytes], str] = {}
    for episode in episodes:
        states = [] if episode.known_state is None else [episode.known_state]
        rows = np.concatenate([episode.action, *states], axis=1)
        split, found = episode.name.split("[")[0], dict[bool, str]()
        for what, part, start in _parts(rows, f"the same actions{' and states' if states else ''} as", bool(states)):
            key = (what, hashlib.sha256(part.tobytes()).digest())
            if seen.get(key, episode.name) != episode.name and (part is rows or np.ptp(part, axis=0).any()):
                found.setdefault(seen[key].split("[")[0] != split, f"{what} {seen[key]}")
            if start % _APART == 0 or start == len(rows) - SHARED:
                seen.setdefault(key, episode.name)
        for leak in [leak for leak in (True, False) if leak in found][:1]:
            text = found[leak] + ("; the splits overlap" if leak else "; drop one")
            yield Finding("error" if leak else "warning", "duplicate", text, episode.name)


def tell_duplicates(episodes: Iterable[tuple[str, np.ndarray, np.ndarray]], advice: str = "") -> None:
    """Prints what `check_duplicates` finds of names, actions and proprioception: the first of it, and how many."""
    if found := list(
        check_duplicates([Recording(name, {}, {}, [], proprio, action) for name, action, proprio in episodes])
    ):
        listed = f"; {len(found)} episodes are like that{advice}" if len(found) > 1 else ""
        print(f"note: {found[0].episode} has {found[0].message}{listed}", flush=True)


def _parts(rows: np.ndarray, whole: str, known: bool) -> Iterator[tuple[str, np.ndarray, int]]:
    """An episode, its beginning, its end, and any `SHARED` steps in a row: what each is, its rows, where it begins."""
    yield whole, rows, 0
    if known and len(rows) > SHARED:
        yield "the same beginning as", rows[:SHARED], 0
        yield "the same end as", rows[-SHARED:], 0
    for start in range(len(rows) - SHARED + 1 if known else 0):
        yield f"{SHARED} steps in a row as in", rows[start : start + SHARED], start


def check_ranges(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Actions are within their limit, and each dimension varies in what is learnt from."""
    learnt = [e.action for e in episodes if e.name.startswith("train[")]
    actions = np.concatenate(learnt or [e.action for e in episodes])
    actions = actions[np.isfinite(actions).all(1)]
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
    spread = actions.std(0, dtype=np.float64) if len(actions) else np.ones(0)
    constant = np.flatnonzero(spread < MIN_STD)
    if len(constant):
        where = "hardly vary in train" if learnt else "hardly vary"
        text = f"action dimensions {constant.tolist()} {where} (standard deviation below {MIN_STD:g})"
        text += "; they are left out of normalisation"
        yield Finding("note", "range", text)


def check_conventions(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Actions mean what states show: frame, sign, rotation, and +1 closes the gripper.

    Actions that are late, or absolute positions, would fail all but the gripper's range too, and for that reason alone;
    only they are named.
    """
    for arm, states, actions in per_arm(episodes):
        yield from _gripper_range(arm, actions)
        command = [a[:, :3] for a in actions]
        moved = [np.diff(s[:, :3], axis=0) for s in states]
        misread = [*_absolute(arm, command, states)] or [*_time_shift(arm, command, moved)]
        yield from misread
        if not misread:
            known = [*frame_and_sign(f"arm {arm} translation", command, moved)]
            yield from known or _turned(f"arm {arm} translation", command, moved)
            yield from _rotation(arm, states, actions)
            yield from _gripper(arm, states, actions)


def _absolute(arm: int, command: list[np.ndarray], states: list[np.ndarray]) -> Iterator[Finding]:
    distance = _mean_distance([c[:-1] - s[1:, :3] for c, s in zip(command, states)])
    if distance < 0.02 and _mean_distance([c[:-1] for c in command]) > 0.1:
        text = f"arm {arm}: actions look like absolute positions, not differences; convert them to differences"
        yield Finding("error", "frame", text)


def _rotation(arm: int, states: list[np.ndarray], actions: list[np.ndarray]) -> Iterator[Finding]:
    """Commanded and performed rotation agree; if they do with the other quaternion order only, that is said."""
    command = [a[:, 3:6] for a in actions]
    if np.concatenate(command).std(0).max() < 1e-3:
        return
    turned = [relative_rotation_vector(s[:-1, 3:7], s[1:, 3:7]) for s in states]
    rolled = [np.roll(s[:, 3:7], 1, axis=1) for s in states]
    swapped = [relative_rotation_vector(q[:-1], q[1:]) for q in rolled]
    here, other = _agreement(command, turned, apart=0), _agreement(command, swapped, apart=0)
    if other > 0.5 and here < other - 0.3:
        text = f"arm {arm}: rotations fit the actions with the other quaternion order only (r {here:.2f} against "
        doubt = ", or actions and states are in different frames" * (here == 0)  # about one axis both look alike
        yield Finding("error", "quaternion", f"{text}{other:.2f}); the columns are xyzw where wxyz is expected{doubt}")
    else:
        yield from frame_and_sign(f"arm {arm} rotation", command, turned)


def _gripper_range(arm: int, actions: list[np.ndarray]) -> Iterator[Finding]:
    """Gripper actions are not only in [0, 1]."""
    command = np.concatenate([a[:-1, 6] for a in actions])
    if len(command) and command.min() >= 0 and command.max() <= 1 and command.std() > 0.01:
        text = f"arm {arm}: gripper actions lie in [0, 1], not [-1, 1]; rescale with 2x - 1"
        yield Finding("warning", "gripper", text)


def _gripper(arm: int, states: list[np.ndarray], actions: list[np.ndarray]) -> Iterator[Finding]:
    """The opening shrinks while the gripper action is high, and is small where it stays so."""
    command = np.concatenate([a[:-1, 6] for a in actions])
    opening = [abs(s[:, 7:9]).sum(1) for s in states]
    change, before = np.concatenate([np.diff(width) for width in opening]), np.concatenate([w[:-1] for w in opening])
    moving = abs(change) > 0.02 * max(abs(np.concatenate([s[:, 7:9] for s in states])).sum(1).max(), 1e-9)
    if moving.sum() < 5 or command.std() < 1e-3:
        return
    middle = (command.max() + command.min()) / 2
    closes = np.mean(np.sign(command[moving] - middle) == -np.sign(change[moving]))
    high = command > middle  # actions that come late close against the motion, and still stand beside shut fingers
    if closes < 0.3 and before[high].mean() > before[~high].mean():
        text = f"arm {arm}: a high gripper action opens the gripper; here +1 closes: negate the last action dimension"
        yield Finding("error", "gripper", text)
    elif closes < 0.7:
        text = f"arm {arm}: gripper actions and opening agree in {closes:.0%} of the moving steps only"
        yield Finding("warning", "gripper", text)


def usable(episodes: Sequence[Recording]) -> list[Recording]:
    """Those whose poses and actions per arm are known, and are numbers."""
    return [
        e
        for e in episodes
        if e.proprio is not None
        and len(e) > 2
        and e.action.shape[1] == ACTION_PER_ARM * e.arms
        and np.isfinite(e.proprio).all()
        and np.isfinite(e.action).all()
    ]


def per_arm(episodes: Sequence[Recording]) -> Iterator[tuple[int, list[np.ndarray], list[np.ndarray]]]:
    """Of each arm: its number, states [T, 9] and actions [T, 7] of the usable episodes."""
    known = usable(episodes)
    for arm in range(min((e.arms for e in known), default=0)):
        states = [e.proprio[:, 9 * arm : 9 * arm + 9].astype(np.float64) for e in known]  # type: ignore[index]
        actions = [e.action[:, 7 * arm : 7 * arm + 7].astype(np.float64) for e in known]
        yield arm, states, actions


def _agreement(command: list[np.ndarray], moved: list[np.ndarray], apart: float = 1) -> float:
    """Correlation of commanded with performed motion, mean over the axes that both use; `apart` where they use others,
    and 1 where one of them uses none.
    """
    a, b = _scaled(command, moved)
    asked, done = abs(a).max(0) > 0, abs(b).max(0) > 0
    if (asked & done).any():
        return float((a * b).mean(0)[asked & done].mean())
    return float(apart) if asked.any() and done.any() else 1.0


def _scaled(command: list[np.ndarray], moved: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both over all episodes, each axis divided by its root mean square; unused axes are zero."""
    a = np.concatenate([c[: len(m)] for c, m in zip(command, moved)])
    b = np.concatenate(moved)
    size_a, size_b = np.sqrt((a**2).mean(0)), np.sqrt((b**2).mean(0))
    return (
        np.where(size_a > 1e-6, a / np.maximum(size_a, 1e-6), 0),
        np.where(size_b > 1e-9, b / np.maximum(size_b, 1e-9), 0),
    )


def frame_and_sign(what: str, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[Finding]:
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


TURNED = 25
"""Degrees about one axis by which actions and states of a sound arm do not differ."""


def _turned(what: str, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[Finding]:
    """Actions whose frame is turned against that of the states by less than `frame_and_sign` finds.

    Judged with and without what a step goes on moving by itself, and said where both agree: on a curve, the lag of a
    controller looks like a turn, and where the arm moves straight on, what it goes on by looks like a command.
    """
    rows = np.concatenate([np.hstack([c[1 : len(m)], m[:-1]]) for c, m in zip(command, moved)])
    after = np.concatenate([m[1:] for m in moved])
    if len(after) < 5 * rows.shape[1]:
        return
    alone, beside = _angles(rows[:, :3], after), _angles(rows, after)
    for (angle, name), (other, _) in zip(alone, beside):
        if min(abs(angle), abs(other)) > TURNED and abs(angle - other) < TURNED:
            text = f"{what}: it is turned against its actions by {angle:.0f} degrees about {name}"
            yield Finding("error", "frame", f"{text}; actions and states are in different frames")


def _angles(rows: np.ndarray, after: np.ndarray) -> Iterator[tuple[float, str]]:
    """About each axis, the angle by which motion is turned against its actions, the first three columns of `rows`; 0
    where it is no turn, or none that is certain."""
    effect = np.linalg.lstsq(rows, after, rcond=1e-6)[0]  # of the actions in m per unit, all axes alike
    left = ((after - rows @ effect) ** 2).sum(0)
    explained = 1 - left / np.maximum((after**2).sum(0), 1e-18)
    spread = np.sqrt(np.outer(np.diag(np.linalg.pinv(rows.T @ rows)), left / (len(after) - rows.shape[1])))
    for axis, other in ((0, 1), (1, 2), (2, 0)):
        along = effect[axis, axis] + effect[other, other]
        across, common = effect[axis, other] - effect[other, axis], effect[axis, other] + effect[other, axis]
        size, unsure = np.hypot(along, across), np.hypot(spread[axis, other], spread[other, axis])
        fits = min(explained[axis], explained[other]) > 0.5 and max(4 * abs(common), 16 * unsure) < size
        yield float(np.degrees(np.arctan2(across, along))) if fits else 0.0, "xyz"[3 - axis - other]


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
    check_conventions,
)
