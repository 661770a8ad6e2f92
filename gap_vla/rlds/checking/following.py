"""How actions and motion go together: which command a motion follows, how well it explains it, and in which frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gap_vla.rlds.checking.report import Finding, Recording

ACTION_PER_ARM = 7
USUAL_LAG = 4
"""Steps by which a controller may answer late; the simulated ones answer after 1 to 3."""
EXPLAINED = 0.3
"""Of the square of an axis' motion, what actions explain at least where their sign, frame and time are judged by it."""
_HELD, _IDLE = 0.005, 0.02
"""An axis is held that stays within so many metres, or radians, of where it starts, under actions below this."""


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


def followed(command: list[np.ndarray], moved: list[np.ndarray]) -> list[np.ndarray]:
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


def agreement(command: list[np.ndarray], moved: list[np.ndarray], apart: float = 1) -> float:
    """Correlation of commanded with performed motion, mean over the axes that both use, by how much each moves; `apart`
    where they use others, and 1 where one of them uses none.
    """
    a, b = scaled(command, moved)
    asked, done = abs(a).max(0) > 0, abs(b).max(0) > 0
    if (asked & done).any():
        size = np.sqrt((np.concatenate(moved) ** 2).mean(0))
        return float(np.average((a * b).mean(0)[asked & done], weights=size[asked & done]))
    return float(apart) if asked.any() and done.any() else 1.0


def scaled(command: list[np.ndarray], moved: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both over all episodes, each axis divided by its root mean square; unused axes, and those held, are zero."""
    a = np.concatenate([c[: len(m)] for c, m in zip(command, moved)])
    b = np.concatenate(moved)
    size_a, size_b = np.sqrt((a**2).mean(0)), np.sqrt((b**2).mean(0))
    away = np.max([abs(np.cumsum(m, axis=0)).max(0) for m in moved], axis=0)
    undone = sum((m[1:] * m[:-1]).sum(0) for m in moved) < -0.25 * (b**2).sum(0)
    held = (away < _HELD) & (size_a < _IDLE) & undone  # what is left of it is noise, of which a step undoes the last
    return (
        np.where(size_a > 1e-6, a / np.maximum(size_a, 1e-6), 0),
        np.where((size_b > 1e-9) & ~held, b / np.maximum(size_b, 1e-9), 0),
    )


def frame_and_sign(what: str, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[Finding]:
    """Axes that move against their actions, or by those of other axes; else actions that do not explain the motion."""
    a, b = scaled(command, moved)
    found = False
    # Regression, not correlation: where x and y mostly move together, each correlates with both.
    effect = np.linalg.lstsq(a, b, rcond=1e-6)[0]  # [action axis, motion axis]
    explained = 1 - ((b - a @ effect) ** 2).mean(0)
    for axis, name in enumerate("xyz"):
        own, others = effect[axis, axis], np.delete(effect[axis], axis)
        target = int(abs(effect[axis]).argmax())
        if explained[target] < EXPLAINED:
            continue
        text = ""
        if own < -0.3 and abs(own) >= abs(others).max():
            text = f"{what}: {name} moves against its action (effect {own:.2f}); the sign of this axis is flipped"
        elif abs(others).max() > 0.5 and abs(others).max() > abs(own) + 0.3:
            text = f"{what}: action {name} moves axis {'xyz'[target]} (effect {effect[axis, target]:.2f}, on its own "
            text += f"{own:.2f}); actions and states are in different frames"
        if text:
            found = True
            yield Finding("error", "frame", text)
    fit = agreement(command, moved)
    if not found and -0.3 <= fit < 0.3:
        text = f"{what}: actions hardly explain the motion (r {fit:.2f}); wrong frame, scale or time?"
        yield Finding("warning", "frame", text)


TURNED = 25
"""Degrees about one axis by which actions and states of a sound arm do not differ."""


def turned(what: str, command: list[np.ndarray], moved: list[np.ndarray]) -> Iterator[Finding]:
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
    variance = np.maximum(np.diag(np.linalg.pinv(rows.T @ rows)), 0)  # of a column of zeros it is 0, or rounding
    spread = np.sqrt(np.outer(variance, left / (len(after) - rows.shape[1])))
    for axis, other in ((0, 1), (1, 2), (2, 0)):
        along = effect[axis, axis] + effect[other, other]
        across, common = effect[axis, other] - effect[other, axis], effect[axis, other] + effect[other, axis]
        size, unsure = np.hypot(along, across), np.hypot(spread[axis, other], spread[other, axis])
        fits = min(explained[axis], explained[other]) > 0.5 and max(4 * abs(common), 16 * unsure) < size
        yield float(np.degrees(np.arctan2(across, along))) if fits else 0.0, "xyz"[3 - axis - other]
