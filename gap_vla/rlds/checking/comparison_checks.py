"""Checks of each episode beside the others: one robot, controller, unit and clock, as far as low-dim data show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from gap_vla.core.episode import label_problems
from gap_vla.phases.motion import relative_rotation_vector
from gap_vla.rlds.checking.following import USUAL_LAG, followed, frame_and_sign, per_arm, usable
from gap_vla.rlds.checking.picture_checks import spread
from gap_vla.rlds.checking.report import Finding, Recording

FEWEST = 3
"""Episodes, from which on most of them can be told from an odd one."""
_STILL = 0.02
"""Metres in an episode that an arm may drift along an axis while it is held."""
_OFF_SCALE, _OFF_SCALE_AXIS = 1.6, 3.0
"""Distances per unit of action that differ by more than this, over all axes or one, are not wear, friction or contact.
In eight of the simulated tasks they differ from the usual by up to 1.15 and 1.5."""
_EXPLAINED, _UNEXPLAINED, _UNEXPLAINED_AXIS, _USED = 0.4, 0.5, 0.9, 0.5
"""Of the motion's square, what the actions leave in most episodes, and in an odd one over all axes or one; and an odd
one's least action and motion as shares of the usual. Simulated episodes leave up to 0.32 over all axes, 0.81 over one.
"""
_LAGS = range(-10, 11)
_AGAINST = -0.5
"""Agreement, below which an arm moves against its actions: a way that repeats would follow them half a period later."""
_OPENING = 1.5
"""Finger positions are metres, or an opening from 0 to 1."""
_HOLDS = 0.1
"""Share of gripper actions about 0 from which on 0 is told on purpose: the gripper stays as it is."""
_CUT, _WAY = 3.0, 0.25
"""Times the usual greatest step of a gripper that no motion is, and share of the usual way that tells its direction."""
_AWAY, _TURNED = 0.05, 0.2
"""Metres and radians from where most episodes start; if also ten times the usual, another frame, or a part."""


def check_axes(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """An axis that moves is commanded, and one that is commanded is recorded."""
    names = [e.name for e in usable(episodes)]
    for arm, states, actions in per_arm(episodes):
        for axis, letter in enumerate("xyz"):
            ranges = np.array([np.ptp(s[:, axis]) for s in states])
            commands = np.array([np.sqrt((a[:, axis] ** 2).mean()) for a in actions])
            idle, dead = (commands < 1e-6) & (ranges > _STILL), (commands > _STILL) & (ranges == 0)
            what = f"arm {arm}: {letter}"
            yield from _odd(idle, names, "frame", what + " moves {:.2g} m and is never commanded", ranges)
            yield from _odd(dead, names, "frame", what + " is commanded and never moves; was it recorded?")


def check_scale(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """One unit of action moves every episode, and every axis in it, by about the same distance, and the same way."""
    names = [e.name for e in usable(episodes)]
    for arm, states, actions in per_arm(episodes):
        states, actions = _in_step(states, actions)
        moved = [np.diff(s[:, :3], axis=0) for s in states]
        command = followed([a[:, :3] for a in actions], moved)
        odd: dict[int, Finding] = {}
        axes = {" x": slice(0, 1), " y": slice(1, 2), " z": slice(2, 3)}
        if not [*frame_and_sign("", command, moved)]:  # else an episode's share of each axis is what differs
            axes = {"": slice(0, 3), **axes}
        for axis, columns in axes.items():
            for index, check, text in _odd_units(
                axis, [c[:, columns] for c in command], [m[:, columns] for m in moved]
            ):
                odd.setdefault(index, Finding("warning", check, f"arm {arm}: {text}", names[index]))
        yield from odd.values()
        a, m = np.concatenate(command), np.concatenate(moved)
        gains = abs(np.array([_gain(a[:, i : i + 1], m[:, i : i + 1]) for i in range(3)]))
        if np.isfinite(gains).sum() > 1 and np.nanmax(gains) > 4 * np.nanmin(gains):
            shown = ", ".join(f"{name} {gain:.2g}" for name, gain in zip("xyz", gains))
            text = f"arm {arm}: one unit of action moves the axes by different distances ({shown} m); one is in other "
            yield Finding("warning", "scale", text + "units")


def check_lag(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Motion follows the actions by as many steps in every episode, and by few."""
    names = [e.name for e in usable(episodes)]
    for arm, states, actions in per_arm(episodes):
        usual, best, odd = _lags(states, actions)
        if usual is None:
            continue
        text = f"arm {arm}: motion follows the actions by {{}} steps, in most others by {usual}; shifted in time?"
        yield from _odd(odd, names, "time", text, best, most=False)
        if usual < -1:
            text = f"arm {arm}: motion comes {-usual} steps before its actions; these are recorded late"
            yield Finding("error", "time", text)
        elif usual > USUAL_LAG:
            yield Finding("warning", "time", f"arm {arm}: motion follows the actions by {usual} steps; recorded early?")


def _lags(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray]
) -> tuple[int | None, Int[np.ndarray, " E"], Bool[np.ndarray, " E"]]:
    """By how many steps motion follows the actions in most episodes (None: few follow at all) and in each, and in which
    it differs from the others."""
    found = [_agreement_by_lag(a[:-1, :3], np.diff(s[:, :3], axis=0)) for a, s in zip(actions, states)]
    best = np.array([_LAGS[int(f.argmax())] for f in found])
    clear = np.array([f.max() > 0.5 for f in found])
    shows = np.array([f[f > -1].any() for f in found], bool)  # is long enough, commands and moves
    if clear.sum() <= shows.sum() / 2:  # where few follow at all, as with an axis that is flipped, none is usual
        return None, best, np.zeros(len(found), bool)
    usual = int(np.quantile(best[clear], 0.5, method="higher"))
    there = np.array([f[usual - _LAGS[0]] for f in found])
    gained = np.array([f.max() for f in found]) - there
    odd = clear & (abs(best - usual) > 1) & (gained > 0.1) & (there > _AGAINST) & (len(found) >= FEWEST)
    return usual, best, odd


def _in_step(states: Sequence[np.ndarray], actions: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same, but episodes that are shifted in time beside the actions that moved them."""
    usual, best, odd = _lags(states, actions)
    by = np.where(odd, best - (usual or 0), 0)  # steps that the motion comes later than usual
    before = [s[shift:] if shift >= 0 else s[:shift] for s, shift in zip(states, by)]
    return before, [a[-shift:] if shift < 0 else a[: len(a) - shift] for a, shift in zip(actions, by)]


def check_grippers(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Grippers are commanded in one range and one direction, and move when they are."""
    names = [e.name for e in usable(episodes)]
    for arm, states, actions in per_arm(episodes):
        command, opening = [a[:-1, 6] for a in actions], [abs(s[:, 7:9]).sum(1) for s in states]
        ranges, spans = np.array([np.ptp(o) for o in opening]), np.array([np.ptp(c) for c in command])
        lowest = np.array([c.min() for c in command])
        later = np.array([np.ptp(o[len(o) // 4 :]) for o in opening])  # told throughout to be open, it opens at first
        closed = np.array([o[0] > o[len(o) // 4] for o in opening])
        idle = (spans < 1e-6) & (ranges > 0.5 * ranges.max()) & (ranges > 0.01) & ((later > 0.2 * ranges) | closed)
        yield from _odd(idle, names, "gripper", f"arm {arm}: the gripper moves and is never commanded")
        dead = (spans > 0.5) & (ranges == 0)
        yield from _odd(dead, names, "gripper", f"arm {arm}: the gripper is commanded and its state never changes")
        halved = (len(names) >= FEWEST) & (spans > 0.01) & (lowest >= 0) & (lowest < 0.5) & (np.median(lowest) < -0.5)
        holds = np.array([(abs(c) < 0.1).mean() for c in command]) > _HOLDS
        halved &= ~holds | (holds.mean() < 0.5)
        text = f"arm {arm}: gripper actions lie in [0, 1], in most others in [-1, 1]; rescale with 2x - 1"
        yield from _odd(halved, names, "gripper", text)
        largest = np.array([abs(s[:, 7:9]).max() for s in states])
        text = f"arm {arm}: a finger stands at {{:.3g}}; metres, or an opening from 0 to 1, are expected"
        yield from _odd(largest > _OPENING, names, "gripper", text, largest)
        middle = (max(c.max() for c in command) + min(c.min() for c in command)) / 2
        states, actions = _in_step(states, actions)
        command, opening = [a[:-1, 6] for a in actions], [abs(s[:, 7:9]).sum(1) for s in states]
        change = _uncut([np.diff(o) for o in opening])
        closes = np.array([_closes(c - middle, o, 0.02 * max(ranges.max(), 1e-9)) for c, o in zip(command, change)])
        ways = np.array([abs(o).sum() for o in change])
        # what fingers give way after a grasp says nothing where the grasp itself is missing
        known = np.isfinite(closes) & (ways > _WAY * np.median(ways))
        if len(names) >= FEWEST and known.any() and np.median(closes[known]) > 0.7:
            text = f"arm {arm}: a high gripper action opens the gripper in this episode, and closes it in most others"
            yield from _odd(known & (closes < 0.3), names, "gripper", text, most=False)


def check_starts(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Episodes start near one another, in place and in orientation, or each somewhere else."""
    names = [e.name for e in usable(episodes)]
    for arm, states, _ in per_arm(episodes):
        if len(names) < FEWEST:
            return
        place = np.array([s[0, :3] for s in states])
        away = np.linalg.norm(place - np.median(place, 0), axis=1)
        pose = np.array([s[0, 3:7] for s in states])
        pose /= np.maximum(np.linalg.norm(pose, axis=1, keepdims=True), 1e-9)
        some = pose[spread(len(pose))]
        alike = abs(some @ some.T)  # of a rotation with itself 1, whatever the signs
        usual = some[np.argmax(np.median(alike, 1))]
        turned = np.linalg.norm(relative_rotation_vector(np.tile(usual, (len(pose), 1)), pose), axis=1)
        for far, least, how in (
            (away, _AWAY, "{:.2g} m away from where"),
            (turned, _TURNED, "turned by {:.2g} rad from how"),
        ):
            text = f"arm {arm}: it starts {how} most others do; another frame, or cut off?"
            yield from _odd(far > max(least, 10 * float(np.median(far))), names, "frame", text, far, most=False)


def check_labels(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Where ρ varies and change points are there in most episodes, they are in all; that it varies in few is noted."""
    labelled = [e for e in episodes if len(e.fields) == 2 and not any(label_problems(e.fields))]
    names = [e.name for e in labelled]
    constant = np.array([len(e) > 1 and e.fields["rho"].min() == e.fields["rho"].max() for e in labelled])
    pointless = np.array([not e.fields["change_point"].any() for e in labelled])
    few = len(labelled) < FEWEST
    if constant.any() and (few or constant.mean() >= 0.5):
        text = f"ρ is the same at every step in {constant.sum()} of {len(names)} episodes; annotate again, unless that "
        yield Finding("note", "rho", text + "is meant", "" if constant.all() else names[int(constant.argmax())])
    elif not few:
        text = "ρ is the same at every step, and varies in most others; annotate again"
        yield from _odd(constant, names, "rho", text)
    if not few and pointless.mean() < 0.5:
        yield from _odd(pointless, names, "rho", "no change point, and there are some in most others; annotate again")


def _odd(
    odd: Bool[np.ndarray, " E"],
    names: list[str],
    check: str,
    text: str,
    values: np.ndarray | None = None,
    most: bool = True,
) -> Iterator[Finding]:
    """A warning, with the episode's value in it, for each odd episode; one for all if `most` are."""
    said = [text if values is None else text.format(value) for value in (odd if values is None else values)]
    if most and len(names) > 1 and odd.mean() > 0.5:
        told = f"{said[int(odd.argmax())]} (so in {odd.sum()} of {len(names)} episodes)"
        yield Finding("warning", check, told)
        return
    for index in np.flatnonzero(odd).tolist():
        yield Finding("warning", check, said[index], names[index])


def _odd_units(axis: str, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[tuple[int, str, str]]:
    """Episodes (index, check, text) in which a unit of action does something else than in most."""
    if len(command) < FEWEST:
        return
    gains = np.array([_gain(c, m) for c, m in zip(command, moved)])
    usual = np.nanquantile(gains, 0.5, method="higher") if np.isfinite(gains).any() else np.nan
    most = _OFF_SCALE_AXIS if axis else _OFF_SCALE
    odd = (gains / usual > most) | (gains / usual < 1 / most)
    if 2 * odd.sum() >= np.isfinite(gains).sum():  # none is usual, as where axes are exchanged in all episodes
        odd[:] = False
    for index in np.flatnonzero(odd):
        check = "frame" if gains[index] * usual < 0 else "scale"
        text = f"one unit of action{axis} moves {gains[index]:.2g} m, in most others {usual:.2g} m; these actions have "
        yield int(index), check, text + f"another {check}"
    sizes = np.array([[(c**2).mean(), (m**2).mean()] for c, m in zip(command, moved)])
    used = (np.sqrt(sizes / np.maximum(np.median(sizes, 0), 1e-18)) > _USED).all(1)
    left = np.array([((m - usual * c) ** 2).mean() for c, m in zip(command, moved)]) / np.maximum(sizes[:, 1], 1e-18)
    if np.median(left) < _EXPLAINED:
        least = _UNEXPLAINED_AXIS if axis else _UNEXPLAINED
        for index in np.flatnonzero(used & (left > least)):
            text = f"action{axis} does not explain the motion ({left[index]:.0%} of it is left, in most others "
            yield int(index), "frame", text + f"{np.median(left):.0%}); another frame, or another episode's actions"


def _agreement_by_lag(command: Float[np.ndarray, "T 3"], moved: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, " L"]:
    """Correlation of motion with the action `lag` steps before it, for each of `_LAGS` that leaves 20 steps.

    A great action is made four times the usual ones at most, so that no lag gains by leaving it out.
    """
    found, size = np.full(len(_LAGS), -1.0), np.linalg.norm(command, axis=1, keepdims=True)
    usual = float(np.quantile(moving, 0.9)) if (moving := size[size > 1e-6]).size else 0.0
    command = command * np.minimum(1, 4 * usual / np.maximum(size, 1e-12))
    for index, lag in enumerate(_LAGS):
        if len(moved) - abs(lag) >= 20:
            before = command[max(0, -lag) : len(command) - max(0, lag)]
            after = moved[max(0, lag) : len(moved) - max(0, -lag)]
            found[index] = _correlation(before, after)
    return found


def _uncut(changes: list[np.ndarray]) -> list[np.ndarray]:
    """Without the steps in which far more changes than in any of most episodes: those between were cut out."""
    greatest = [abs(change).max() for change in changes]
    usual = np.median([size for size in greatest if size > 0] or [0.0])
    return [np.where(abs(change) > _CUT * usual, 0, change) for change in changes]


def _closes(command: np.ndarray, change: np.ndarray, least: float) -> float:
    """Share of the steps in which the gripper moves where a high action closes it; NaN where it hardly moves."""
    moving = abs(change) > least
    if moving.sum() < 3 and abs(change).max(initial=0) < 25 * least:  # an opening from 0 to 1 may jump
        return float("nan")
    return float(np.mean(np.sign(command[moving]) == -np.sign(change[moving])))


def _gain(command: np.ndarray, moved: np.ndarray) -> float:
    """Distance per unit of action; NaN where the action does not explain the motion."""
    explains = abs(_correlation(command, moved)) >= 0.5
    return float((command * moved).mean() / (command**2).mean()) if explains else float("nan")


def _correlation(command: np.ndarray, moved: np.ndarray) -> float:
    """Of what was commanded with what was done, about zero; 0 where either is nothing."""
    size_a, size_b = np.sqrt((command**2).mean()), np.sqrt((moved**2).mean())
    return float((command * moved).mean() / (size_a * size_b)) if size_a >= 1e-6 and size_b >= 1e-9 else 0.0


COMPARISON_CHECKS: tuple[Callable[[Sequence[Recording]], Iterator[Finding]], ...] = (
    check_axes,
    check_scale,
    check_lag,
    check_grippers,
    check_starts,
    check_labels,
)
