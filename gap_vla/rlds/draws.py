"""Random numbers that belong to a window, whoever reads it: goals and augmentations do not depend on the reader.

A number is a hash of (seed, purpose, epoch, episode, step): two readers, two batch sizes and any number of hosts draw
the same for the same window, and nothing needs to be saved for resuming. numpy only.
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Float, Int

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(
    seed: int,
    purpose: str,
    epoch: Int[np.ndarray, " B"],
    episode: Int[np.ndarray, " B"],
    step: Int[np.ndarray, " B"],
    count: int,
) -> Float[np.ndarray, "B n"]:
    """`count` numbers in [0, 1) for each window (splitmix64).

    Args:
        seed: of the reader.
        purpose: what they are for; different purposes are independent.
        epoch, episode, step: which pass, and which window: the one that ends at `step` of episode `episode`.
        count: numbers per window.
    """
    state = np.full(len(step), (int(seed) << 32 ^ zlib.crc32(purpose.encode())) % 2**64, np.uint64)
    with np.errstate(over="ignore"):
        for part in (epoch, episode, step):
            state = _mix(state + _GOLDEN + np.asarray(part).astype(np.uint64))
        numbers = _mix(state[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def goal_steps(
    seed: int,
    epoch: Int[np.ndarray, " B"],
    episode: Int[np.ndarray, " B"],
    step: Int[np.ndarray, " B"],
    length: Int[np.ndarray, " B"],
    max_distance: int | None = None,
) -> Int[np.ndarray, " B"]:
    """A step in [step, length), uniformly; at most `max_distance` after `step`."""
    last = length if max_distance is None else np.minimum(length, step + max_distance + 1)
    draw = uniform(seed, "goal", epoch, episode, step, 1)[:, 0]
    return step + (draw * (last - step)).astype(np.int64)
