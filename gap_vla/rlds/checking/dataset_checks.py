"""Checks over all episodes: conventions of actions against states, duplicates, ranges. They see low-dim data only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from gap_vla.core.episode import LARGEST_ACTION
from gap_vla.phases.motion import relative_rotation_vector
from gap_vla.rlds.checking.following import EXPLAINED, agreement, followed, frame_and_sign, per_arm, scaled, turned
from gap_vla.rlds.checking.jump_checks import check_jumps
from gap_vla.rlds.checking.report import Finding, Recording
from gap_vla.rlds.statistics import MIN_STD

SHARED = 20
"""Steps in a row that two episodes do not have in common by chance."""
_APART = 10
"""Steps between the parts of an episode that are remembered; of later episodes every part is compared with them."""


def check_duplicates(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """No episode, and no part of one, occurs twice; across splits that would leak validation data."""
    seen: dict[tuple[str, bytes], str] = {}
    known: dict[str, np.ndarray] = {}
    for episode in episodes:
        states = [] if episode.known_state is None else [episode.known_state]
        rows = known[episode.name] = np.concatenate([episode.action, *states], axis=1)
        split, found, starts = episode.name.split("[")[0], dict[bool, str](), dict[str, int]()
        for what, part, start in _parts(rows, f"the same actions{' and states' if states else ''} as", bool(states)):
            key = (what, hashlib.sha256(part.tobytes()).digest())
            first = seen.get(key, episode.name)
            repeats = first != episode.name and (part is rows or np.ptp(part, axis=0).any())
            if repeats and first not in starts:
                starts[first] = _common_start(rows, known[first])
            if repeats and start + len(part) > starts[first]:
                found.setdefault(first.split("[")[0] != split, f"{what} {first}")
            if start % _APART == 0 or start == len(rows) - SHARED:
                seen.setdefault(key, episode.name)
        for leak in [leak for leak in (True, False) if leak in found][:1]:
            text = found[leak] + ("; the splits overlap" if leak else "; drop one")
            yield Finding("error" if leak else "warning", "duplicate", text, episode.name)


def _common_start(rows: np.ndarray, others: np.ndarray) -> int:
    """Steps that two episodes begin with alike, as from home in a simulation; 0 where these are half of the shorter one
    or more, and one may be a copy of the other."""
    shorter = min(len(rows), len(others))
    if rows.shape[1] != others.shape[1]:
        return 0
    alike = int(np.append((rows[:shorter] == others[:shorter]).all(1), False).argmin())
    return alike if alike < shorter / 2 else 0


def tell_duplicates(episodes: Iterable[tuple[str, np.ndarray, np.ndarray]], advice: str = "") -> None:
    """Prints what `check_duplicates` finds of names, actions and proprioception: of the splits that overlap, and within
    one, the first of it, and how many there are."""
    found = [*check_duplicates([Recording(name, {}, {}, [], proprio, action) for name, action, proprio in episodes])]
    for level in ("error", "warning"):
        if alike := [one for one in found if one.level == level]:
            listed = f"; {len(alike)} episodes are like that{advice}" if len(alike) > 1 else ""
            print(f"note: {alike[0].episode} has {alike[0].message}{listed}", flush=True)


def _parts(rows: np.ndarray, whole: str, known: bool) -> Iterator[tuple[str, np.ndarray, int]]:
    """An episode, its beginning, its end, and any `SHARED` steps in a row: what each is, its rows, where it begins."""
    yield whole, rows, 0
    if known and len(rows) > SHARED:
        yield "the same beginning as", rows[:SHARED], 0
        yield "the same end as", rows[-SHARED:], 0
    for start in range(len(rows) - SHARED + 1 if known else 0):
        yield f"{SHARED} or more steps in a row as in", rows[start : start + SHARED], start


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
                f"action dimension {column} is {episode.action[step, column]:.6g}, outside of [-{most:g}, {most:g}]; "
                "rescale it, or state the largest action that the controller means with --action-limit"
            )
            yield Finding("error", "range", text, episode.name, int(step))
    spread = actions.std(0, dtype=np.float64) if len(actions) else np.ones(0)
    constant = np.flatnonzero(spread < MIN_STD)
    if len(constant):
        where = "hardly vary in the episodes read of train" if learnt else "hardly vary"
        text = f"action dimensions {constant.tolist()} {where} (standard deviation below {MIN_STD:g})"
        text += "; normalisation leaves out what varies so little in all of train"
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
            command = followed(command, moved)
            known = [*frame_and_sign(f"arm {arm} translation", command, moved)]
            yield from known or turned(f"arm {arm} translation", command, moved)
            yield from _rotation(arm, states, actions)
            yield from _gripper(arm, states, actions)


LEAD = 0.2
"""Of the distance from the origin, by which an arm may be behind the positions that it is sent to."""


def _absolute(arm: int, command: list[np.ndarray], states: list[np.ndarray]) -> Iterator[Finding]:
    size = _mean_distance([c[:-1] for c in command])
    if size > 0.1 and _mean_distance([c[:-1] - s[1:, :3] for c, s in zip(command, states)]) < LEAD * size:
        text = f"arm {arm}: actions look like absolute positions, not differences; convert them to differences"
        yield Finding("error", "frame", text)


def _rotation(arm: int, states: list[np.ndarray], actions: list[np.ndarray]) -> Iterator[Finding]:
    """Commanded and performed rotation agree; if they do with the other quaternion order only, that is said."""
    command = [a[:, 3:6] for a in actions]
    if np.concatenate(command).std(0).max() < 1e-3:
        return
    performed = [relative_rotation_vector(s[:-1, 3:7], s[1:, 3:7]) for s in states]
    rolled = [np.roll(s[:, 3:7], 1, axis=1) for s in states]
    swapped = [relative_rotation_vector(q[:-1], q[1:]) for q in rolled]
    here, other = (agreement(followed(command, one), one, apart=0) for one in (performed, swapped))
    if other > 0.5 and here < other - 0.3:
        text = f"arm {arm}: rotations fit the actions with the other quaternion order only (r {here:.2f} against "
        doubt = ", or actions and states are in different frames" * (here == 0)  # about one axis both look alike
        yield Finding("error", "quaternion", f"{text}{other:.2f}); the columns are xyzw where wxyz is expected{doubt}")
    else:
        yield from frame_and_sign(f"arm {arm} rotation", followed(command, performed), performed)


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


def _time_shift(arm: int, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[Finding]:
    """Motion follows from the action before it. If, both given, the action *after* it tells more, over all and in most
    episodes, actions are late; an effect that explains less than half of what one of its size would, is chance.
    """
    of_now, of_after, explained = _effects(command, moved)
    each = np.array([_effects([c], [m]) for c, m in zip(command, moved)])
    follows = explained > min(EXPLAINED, of_after**2 / 2) and of_after > max(0.5, abs(of_now))
    if follows and np.median(each[:, 1] - each[:, 0]) > 0:
        text = f"arm {arm}: the motion of a step follows the action after it (effect {of_after:.2f}) more than its own "
        yield Finding("error", "time", text + f"({of_now:.2f}); actions are recorded late")


def _effects(command: list[np.ndarray], moved: list[np.ndarray]) -> tuple[float, float, float]:
    """Of a step's action and of the next one on its motion, and the share of its square that both explain; mean over
    the axes in use, by how much each moves."""
    now, performed = scaled([c[:-1] for c in command], moved)
    after, _ = scaled([c[1:] for c in command], moved)
    both = [np.stack([now[:, axis], after[:, axis]], 1) for axis in range(3)]
    effects = np.array([np.linalg.lstsq(a, performed[:, axis], rcond=1e-6)[0] for axis, a in enumerate(both)])
    fitted = np.stack([a @ effect for a, effect in zip(both, effects)], 1)
    found = np.column_stack([effects, 1 - ((performed - fitted) ** 2).mean(0)])
    size = np.sqrt((np.concatenate(moved) ** 2).mean(0)) * (effects.sum(1) > 0)  # one that is flipped says nothing
    return tuple(np.average(found, axis=0, weights=size).tolist()) if size.any() else (0.0, 0.0, 0.0)


def _mean_distance(differences: list[np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate(differences), axis=1).mean())


DATASET_CHECKS: tuple[Callable[[Sequence[Recording]], Iterator[Finding]], ...] = (
    check_duplicates,
    check_ranges,
    check_conventions,
    check_jumps,
)
