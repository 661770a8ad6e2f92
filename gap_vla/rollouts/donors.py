"""Which recording a swap takes its moments from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.recordings import Recording


def donor_of(one: Recording, others: Sequence[Recording]) -> Recording:
    """The next recording that a swap takes from: one with other pictures, where there are pictures, and nine tenths of
    the steps or more, else the longest."""
    shorter = []
    for other in others:
        shared = min(len(one), len(other))  # a camera that is frozen shows the same in recordings of other lengths
        if not one.images or any(
            not np.array_equal(v[:shared], other.images[k][:shared]) for k, v in one.images.items()
        ):
            if len(other) >= 0.9 * len(one):
                return other
            shorter.append(other)
            continue
        if np.array_equal(one.action, other.action):
            raise EvaluationError(f"{one.name} and {other.name} are the same recording; leave one of them out")
        warnings.warn(f"{one.name} and {other.name} show the same pictures; a swap takes another's", stacklevel=4)
    if shorter:
        longest = max(shorter, key=len)
        known = f"{one.name} has {len(one)} steps, the longest with other pictures, {longest.name}, {len(longest)}"
        warnings.warn(f"{known}: from there on a swap shows its last moment", stacklevel=4)
        return longest
    raise EvaluationError(
        f"{one.name} has the same pictures as all others: a swap would change nothing; give other recordings"
    )
