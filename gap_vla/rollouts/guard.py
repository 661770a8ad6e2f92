"""Calls a policy with a time limit and checks what it returns, so that one bad answer costs one episode."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gap_vla.rollouts.policy import EXPERT_ACTION, Policy, forget


class _Thread:
    """Runs calls one after the other in a daemon thread, which can be abandoned while it hangs in one of them."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="policy").start()

    def _serve(self) -> None:
        while call := self._calls.get():
            try:
                self._results.put((call(), None))
            except BaseException as error:
                self._results.put((None, error))

    def run(self, call: Callable[[], Any], limit: float) -> Any:
        self._calls.put(call)
        result, error = self._results.get(timeout=limit)
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._calls.put(None)


class GuardedPolicy:
    """A policy whose faults become messages.

    Args:
        limit: seconds for one call.
        first_limit: seconds for the first `act`, which may compile.

    Attributes:
        silent: how many calls it has not answered in time since it last acted (to begin an episode is no sign of
            life: a client of a server that hangs can do that).
        answered: whether it has ever acted.
    """

    def __init__(self, policy: Policy, action_dim: int, *, limit: float, first_limit: float) -> None:
        self._policy, self._width = policy, action_dim
        patience = float(getattr(policy, "patience", 0.0))  # a remote policy may wait this long for its server
        self._limit, self._next_limit = limit + patience, first_limit + patience
        self._privileged = bool(getattr(policy, "privileged", False))
        self._thread = _Thread()
        self.silent, self.answered = 0, False

    def reset(self, episode_ids: Sequence[int]) -> str | None:
        """Returns why the policy could not start these episodes, or None."""
        return self._call(lambda: self._policy.reset(episode_ids), self._limit)[1]

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> tuple[np.ndarray, dict[int, str]]:
        """Returns float32[B, A] clipped to [-1, 1], and per row index why that row is unusable (all of
        them, if it hung).
        """
        if not self._privileged:
            observations = {key: value for key, value in observations.items() if key != EXPERT_ACTION}
        rows = len(episode_ids)
        unusable = np.zeros((rows, self._width), np.float32)
        result, fault = self._call(lambda: self._policy.act(observations, episode_ids), self._next_limit)
        self._next_limit = self._limit
        if fault is None:
            self.silent, self.answered = 0, True
            fault = self._misshapen(result, rows)
        if fault is not None:
            return unusable, dict.fromkeys(range(rows), fault)
        actions: np.ndarray = np.asarray(result, np.float32)
        finite = np.isfinite(actions).all(1)
        faults = {}
        for row in np.flatnonzero(~finite):
            entries = [entry for entry, value in enumerate(actions[row]) if not np.isfinite(value)]
            faults[int(row)] = f"the policy returned NaN or infinity in action entries {entries}"
        return np.clip(np.where(finite[:, None], actions, 0), -1, 1), faults

    def forget(self, episode_ids: Sequence[int]) -> None:
        """These episodes are over; policies that remember something about each need not do so any longer."""
        if not self.silent:
            self._call(lambda: forget(self._policy, episode_ids), self._limit)

    def close(self) -> None:
        self._thread.end()

    def _call(self, call: Callable[[], Any], limit: float) -> tuple[Any, str | None]:
        try:
            return self._thread.run(call, limit), None
        except queue.Empty:
            self._thread = _Thread()  # the old one is stuck for good
            self.silent += 1
            return None, f"the policy did not answer within {limit:g} s"

    def _misshapen(self, result: Any, rows: int) -> str | None:
        try:
            actions = np.asarray(result, np.float32)
        except (TypeError, ValueError):
            return f"the policy returned {type(result).__name__}, not an array of numbers"
        expected = (rows, self._width)
        if actions.shape != expected:
            return (
                f"the policy returned actions of shape {actions.shape}, the task takes {expected}: "
                "was it trained for this task?"
            )
        return None
