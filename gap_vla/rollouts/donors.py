"""Which recording a swap takes its moments from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.recordings import Recording


def donors_of(recordings: Sequence[Recording], cameras: Sequence[str]) -> list[Recording]:
    """Of each recording, `donor_of` those after it and, once round, before it, of its own instruction first: pictures
    of another task are unlike anything that is shown beside that.

    Raises:
        EvaluationError: one of two that are the same, or no other differs from it in each of these cameras.
    """
    found = []
    for n, one in enumerate(recordings):
        others = [*recordings[n + 1 :], *recordings[:n]]
        found.append(donor_of(one, sorted(others, key=lambda other: other.instruction != one.instruction), cameras))
    if alone := [one.name for one, donor in zip(recordings, found) if one.instruction != donor.instruction]:
        told = f"{len(alone)} of {len(recordings)} recordings, as {alone[0]}"
        warnings.warn(f"{told}, have no other of their instruction to swap with, but another task's", stacklevel=3)
    return found


def donor_of(one: Recording, others: Sequence[Recording], cameras: Sequence[str]) -> Recording:
    """The next recording that a swap takes from: one that differs in each of these cameras (in its state, where there
    are none), and has nine tenths of the steps or more, else the longest."""
    keys = cameras or ["proprio"]
    found, shorter, passed = None, [], []
    for other in others:
        same = [key for key in keys if _same(one, other, key)]
        if len(same) == len(keys) and np.array_equal(one.action, other.action):
            raise EvaluationError(f"{one.name} and {other.name} are the same recording; leave one of them out")
        if same:
            passed.append((other, same))
        elif len(other) >= 0.9 * len(one):
            found = other
            break
        else:
            shorter.append(other)
    if found is None and not shorter:
        dead = [key for key in keys if all(key in same for _, same in passed)]
        problem = f"the same in {'all other recordings' if dead else 'every other recording, one of them at least'}"
        advice = "a swap would change nothing: leave that out, or give other recordings"
        raise EvaluationError(f"{' and '.join(dead or keys)} of {one.name}: {problem}; {advice}")
    for other, same in passed:
        what = f"{one.name} and {other.name} have the same {' and '.join(same)}"
        warnings.warn(f"{what}; a swap takes another's", stacklevel=4)
    alike = [other for other in shorter if other.instruction == one.instruction]
    if found is None or (alike and found.instruction != one.instruction):
        found = max(alike or shorter, key=len)
        several = alike and any(other.instruction != one.instruction for other in others)
        longest = f"the longest{' of its instruction' if several else ''}"
        known = f"{one.name} has {len(one)} steps, {longest} with other pictures, {found.name}, {len(found)}"
        warnings.warn(f"{known}: from there on a swap shows its last moment", stacklevel=4)
    return found


def _same(one: Recording, other: Recording, key: str) -> bool:
    """A camera that is frozen shows the same in recordings of other lengths."""
    shared = min(len(one), len(other))
    a, b = ({**each.images, "proprio": each.proprio}[key][:shared] for each in (one, other))
    return np.array_equal(a, b)
