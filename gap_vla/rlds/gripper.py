"""Gripper actions as 0 (closed) or 1 (open), as upstream Octo's dataset transforms make them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def binarize_gripper_actions(actions: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Openings in [0, 1] to 0 or 1: above 0.95 open, below 0.05 closed, in between what is reached next.

    Values in between at the end of the episode, after which nothing is reached, become the last action, as upstream.

    Example:
        >>> binarize_gripper_actions(np.array([0.99, 0.5, 0.02, 0.25], np.float32)).tolist()
        [1.0, 0.0, 0.0, 0.25]
    """
    decided = (actions > 0.95) | (actions < 0.05)
    values = np.where(decided, actions > 0.95, actions[-1]).astype(np.float32)
    following = np.minimum.accumulate(np.where(decided, np.arange(len(actions)), len(actions) - 1)[::-1])[::-1]
    return values[following]


def absolute_gripper_actions(actions: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Commands (above 0.1: close, below -0.1: open, else: stay) to 0 (closed) or 1 (open).

    Before the first command the gripper is in the other state; without any command it is open.

    Example:
        >>> absolute_gripper_actions(np.array([0.0, 1.0, 0.0, -1.0], np.float32)).tolist()
        [1.0, 0.0, 0.0, 1.0]
    """
    command = np.where(actions < -0.1, 1, np.where(actions > 0.1, -1, 0))
    given = np.flatnonzero(command)
    start = -command[given[0]] if len(given) else 1
    latest = np.maximum.accumulate(np.where(command != 0, np.arange(len(actions)), -1))
    state = np.where(latest < 0, start, command[latest])
    return (state / 2 + 0.5).astype(np.float32)
