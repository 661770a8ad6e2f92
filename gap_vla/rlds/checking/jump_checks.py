"""Jumps in pose, as where frames are missing: steps far greater than the others, or far beyond what was commanded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.rlds.checking.following import USUAL_LAG, per_arm, usable
from gap_vla.rlds.checking.report import Finding, Recording

JUMP_FACTOR, JUMP_METRES, JUMP_RADIANS = 5.0, 0.02, 0.3
"""A step is a jump if it is this many times as large as a fast one (`_fast`), and at least this large."""
_BEYOND_METRES, _BEYOND_FAST, _BEYOND_USUAL = 0.01, 1.5, 8.0
"""It is one too if it goes beyond what was commanded by this: metres, times a fast step, and times what fast deviations
from commands are. Steps of the nine simulated tasks go beyond by up to 0.40 of the most of these, those of an arm that
noise of Student's t (3 degrees of freedom) moves by up to 0.95.
"""
_FOLLOWS = 0.5
"""Of the motion's square, what the commands explain at least where steps are judged by them."""
_WAITING = 40
"""Steps within which an arm that was held makes up for what it was commanded."""
_FEWEST_STEPS = 20


def jump(episode: Recording, size: Float[np.ndarray, " S"], least: float, what: str, unit: str) -> Iterator[Finding]:
    """The largest step of an episode, if it is far larger than its fast ones."""
    if _is_jump(size, least):
        text = f"{what} {size.max():.3g} {unit} in one step (median {np.median(size):.2g}); "
        text += "frames missing or a tracking error"
        yield Finding("warning", "jump", text, episode.name, int(size.argmax()) + 1)


def check_jumps(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Where positions follow the actions, no step goes far beyond them; those that `jump` names are left to it."""
    names = [e.name for e in usable(episodes)]
    for arm, states, actions in per_arm(episodes):
        moved = [np.diff(s[:, :3], axis=0) for s in states]
        for name, m, asked in zip(names, moved, _asked([a[:, :3] for a in actions], moved)):
            if len(m) < _FEWEST_STEPS:
                continue
            size, beyond = np.linalg.norm(m, axis=1), _beyond(m, asked)
            step, deviation = int(beyond.argmax()), np.linalg.norm(m - asked, axis=1)
            least = max(_BEYOND_METRES, _BEYOND_FAST * _fast(size), _BEYOND_USUAL * _fast(deviation))
            if beyond[step] > least and not (_is_jump(size, JUMP_METRES) and step == size.argmax()):
                text = f"arm {arm} moves {size[step]:.3g} m in one step, {beyond[step]:.2g} m beyond what its actions "
                text += "command; frames missing, a tracking error or a push"
                yield Finding("warning", "jump", text, name, step + 1)


def _asked(command: list[np.ndarray], moved: list[np.ndarray]) -> list[np.ndarray]:
    """The motion that commands explain, those of the step and of `USUAL_LAG` before it, in any frame and at any scale;
    nothing where they explain little, or where there are too few steps to tell."""
    before = [[np.pad(c, ((lag, 0), (0, 0)))[: len(m)] for lag in range(USUAL_LAG + 1)] for c, m in zip(command, moved)]
    rows = [np.hstack(one) for one in before]
    effect, kept = np.zeros((rows[0].shape[1], 3)), [np.ones(len(m), bool) for m in moved]
    for _ in range(2):  # at first of all steps, then without the two of each episode that fit worst
        a = np.concatenate([row[keep] for row, keep in zip(rows, kept)])
        b = np.concatenate([m[keep] for m, keep in zip(moved, kept)])
        effect = np.linalg.lstsq(a, b, rcond=1e-6)[0]
        left = [np.linalg.norm(m - row @ effect, axis=1) for row, m in zip(rows, moved)]
        kept = [one.argsort().argsort() < len(one) - 2 for one in left]
    explained = 1 - ((b - a @ effect) ** 2).sum() / max((b**2).sum(), 1e-18)
    known = explained > _FOLLOWS and len(a) > 5 * a.shape[1]
    return [row @ effect for row in rows] if known else []


def _beyond(moved: Float[np.ndarray, "S 3"], asked: Float[np.ndarray, "S 3"]) -> Float[np.ndarray, " S"]:
    """How much farther than commanded each step goes, by itself and with any number of steps before it: a hand that is
    stopped goes less far, and one that gets free makes up for that."""
    beyond = np.linalg.norm(moved, axis=1) - np.linalg.norm(asked, axis=1)
    apart = np.cumsum(np.concatenate([np.zeros((1, 3)), moved - asked]), axis=0)
    for back in range(1, min(_WAITING, len(moved)) + 1):
        since = np.linalg.norm(apart[back:] - apart[:-back], axis=1)
        beyond[back - 1 :] = np.minimum(beyond[back - 1 :], since)
    return beyond


def _is_jump(size: Float[np.ndarray, " S"], least: float) -> bool:
    return len(size) > 2 and bool(size.max() > max(least, JUMP_FACTOR * _fast(size)))


def _fast(size: Float[np.ndarray, " S"]) -> float:
    """The 95th percentile of all but the two largest."""
    return float(np.quantile(np.sort(size)[:-2], 0.95))
