"""What every policy looks like to the rollouts, and the ones that need no model: random, expert, replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError

EXPERT_ACTION = "expert_action"
"""Observation key of the scripted expert's action; only policies with `privileged = True` are given it."""


class PolicyError(UserError, RuntimeError):
    """A policy that cannot be loaded or does not fit the task; the message says what to do."""


class PolicyUnavailable(PolicyError):
    """The policy has gone away (its server, say): the evaluation stops, keeps what it has, can be resumed."""


@runtime_checkable
class Policy(Protocol):
    """A batched policy: one row per episode that is under way.

    Observations, all with leading axis B: `image_<camera>` uint8[B, h, w, 3]; `proprio` float32[B, 9 * arms]
    (per arm eef xyz in m, world; quaternion wxyz; two finger positions in m); `language_instruction` str[B].

    Optional attributes: `privileged` (bool; also receive `expert_action`), `layout_seeds` (episode number to
    simulator seed, for policies that only make sense on certain layouts), `identity` (JSON-able dict that
    says which policy this is; a resumed evaluation compares it), `source` (where it was loaded from, for the
    reader), `patience` (seconds that a call may wait for a server, on top of its own time limit),
    `forget(episode_ids)` (these episodes are over: nothing needs to be remembered about them).
    """

    name: str

    def reset(self, episode_ids: Sequence[int]) -> None:
        """These episodes start now: forget whatever was remembered under their numbers."""

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """Actions in the simulator's units: per arm delta xyz, delta rotation vector, gripper (+1 closes),
        in [-1, 1].
        """


def asked(policy: Policy, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
    """The policy's actions where nothing but they is measured.

    Raises:
        PolicyError: another number of rows, no numbers, or NaN or infinity in them.
    """
    actions = np.asarray(policy.act(observations, episode_ids))
    if actions.ndim != 2 or len(actions) != len(episode_ids) or actions.dtype.kind not in "biuf":
        raise PolicyError(f"{policy.name} returned {actions.dtype} {actions.shape} for {len(episode_ids)} observations")
    if not np.isfinite(actions).all():
        row = int(np.argmin(np.isfinite(actions).all(1)))
        raise PolicyError(f"{policy.name}: the action is NaN or infinite in episode {episode_ids[row]}")
    return actions


def forget(policy: Policy, episode_ids: Sequence[int]) -> None:
    """Tells a policy that remembers something about episodes that these are over."""
    if hasattr(policy, "forget"):
        policy.forget(episode_ids)


def identity(policy: Policy) -> dict[str, Any]:
    """What an evaluation writes down about its policy, to notice on resume that it is another one."""
    return {"name": policy.name, **getattr(policy, "identity", {})}


class RandomPolicy:
    """Uniform actions; the same (seed, episode) draws the same ones, whatever else runs beside it."""

    name = "random"

    def __init__(self, action_dim: int, seed: int = 0) -> None:
        self.action_dim, self.seed = action_dim, seed
        self.identity = {"seed": seed}
        self._generators: dict[int, np.random.Generator] = {}

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            self._generators[episode] = np.random.default_rng([self.seed, episode])

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        draws = [self._generators[episode].uniform(-1, 1, self.action_dim) for episode in episode_ids]
        return np.asarray(draws, np.float32)


class ExpertPolicy:
    """The task's scripted expert. It sees the simulator's state, so it runs in the worker; here it is only
    passed on.
    """

    name = "expert"
    privileged = True

    def reset(self, episode_ids: Sequence[int]) -> None:
        pass

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        return observations[EXPERT_ACTION]


class ReplayPolicy:
    """Plays recorded actions back, on the layouts on which they were recorded.

    Args:
        actions: one float32[T, A] per episode, in order. After the last action the episode gets zeros, and
            the gripper entries (every seventh) keep their last value.
        layout_seeds: the simulator seed of each recording, or None to take the evaluation's own layouts.
    """

    name = "replay"

    def __init__(self, actions: Sequence[np.ndarray], layout_seeds: Sequence[int] | None = None) -> None:
        if layout_seeds is not None and len(layout_seeds) != len(actions):
            raise PolicyError(f"{len(actions)} recordings but {len(layout_seeds)} seeds; need one seed for each")
        self.source: str | None = None
        self._actions = [np.asarray(a, np.float32) for a in actions]
        self.layout_seeds: Mapping[int, int] | None = None if layout_seeds is None else dict(enumerate(layout_seeds))
        self.identity = {"recordings": len(actions), "steps": sum(len(a) for a in self._actions)}
        self._step: dict[int, int] = {}

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            if episode >= len(self._actions):
                raise PolicyError(f"episode {episode}: only {len(self._actions)} recordings; lower --episodes")
            self._step[episode] = 0

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        rows = []
        for episode in episode_ids:
            recording, step = self._actions[episode], self._step[episode]
            self._step[episode] = step + 1
            if step < len(recording):
                rows.append(recording[step])
            else:
                hold = np.zeros(recording.shape[1], np.float32)
                hold[6::7] = recording[-1, 6::7]
                rows.append(hold)
        return np.stack(rows)
