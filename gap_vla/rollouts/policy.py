"""What every policy looks like to the rollouts, and the policies that need no model: random, expert."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

EXPERT_ACTION = "expert_action"
"""Observation key of the scripted expert's action; only policies with `privileged = True` are given it."""

Bounds = float | tuple[float, ...]
"""Of actions: one number, or one a column."""


@runtime_checkable
class Policy(Protocol):
    """A batched policy: one row per episode that is under way.

    Observations, all with leading axis B: `image_<camera>` uint8[B, h, w, 3]; `proprio` float32[B, P] (in
    `gap_vla.sim`: `POSE` of each arm); `language_instruction` str[B].

    Optional attributes:
        privileged: bool; the policy also receives `expert_action`.
        identity: JSON-able dict that says which policy this is; a resumed evaluation compares it.
        source: where it was loaded from, for the reader.
        warm_up(): called once, before the first answer is asked for, while the simulators start.
        forget(episode_ids): these episodes are over; nothing needs to be remembered about them.
    """

    name: str

    def reset(self, episode_ids: Sequence[int]) -> None:
        """These episodes start now: forget whatever was remembered under their numbers."""

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """Actions in the task's units; in `gap_vla.sim` per arm `DELTA` in [-1, 1], where a gripper of +1 closes."""


def forget(policy: Policy, episode_ids: Sequence[int]) -> None:
    """Tells a policy that remembers something about episodes that these are over."""
    if hasattr(policy, "forget"):
        policy.forget(episode_ids)


def identity(policy: Policy) -> dict[str, Any]:
    """What an evaluation writes down about its policy, to notice on resume that it is another one."""
    own: Mapping[str, Any] = getattr(policy, "identity", None) or {}
    return json.loads(json.dumps({"name": policy.name, **own}))


class RandomPolicy:
    """Uniform actions from `low` to `high`; the same (seed, episode) draws the same ones, whatever else runs."""

    name = "random"

    def __init__(self, action_dim: int, seed: int = 0, *, low: Bounds = -1.0, high: Bounds = 1.0) -> None:
        self.action_dim, self.seed = action_dim, seed
        self._range = (low, high)
        self.identity = {"seed": seed}
        self._generators: dict[int, np.random.Generator] = {}

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            self._generators[episode] = np.random.default_rng([self.seed, episode])

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        draws = [self._generators[episode].uniform(*self._range, self.action_dim) for episode in episode_ids]
        return np.asarray(draws, np.float32)


class ExpertPolicy:
    """The task's scripted expert. It sees the simulator's state, so it runs in the worker; here it is passed on."""

    name = "expert"
    privileged = True

    def reset(self, episode_ids: Sequence[int]) -> None:
        pass

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        return observations[EXPERT_ACTION]
