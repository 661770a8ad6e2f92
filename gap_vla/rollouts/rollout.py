"""Rolls a policy out: simulators in processes of their own, one batched policy here, one JSON line per episode."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.core.progress import Progress
from gap_vla.rollouts.policy import EXPERT_ACTION, Policy, forget
from gap_vla.rollouts.records import PARTS, EpisodeLog, EpisodeRecord
from gap_vla.rollouts.task import SimTask, Task
from gap_vla.rollouts.workers import Crash, Frame, WorkerPool

MOST_ACTION = 100.0
"""Entries of actions, which lie in -1 to 1, may be so far off and are clipped; beyond it they are no actions."""

MAX_CRASHES_IN_A_ROW = 3
"""So many simulator failures without a finished episode between them mean that the machine, not a layout, is broken."""


@dataclasses.dataclass
class _Live:
    """An episode that is under way."""

    number: int
    seed: int
    again: bool = False  # its simulator or the policy's server failed once, and it is played a second time
    observation: dict[str, Any] = dataclasses.field(default_factory=dict)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)
    steps: int = -1  # becomes 0 with the first observation
    phase: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def see(self, frame: Frame) -> None:
        self.observation, self.phase = frame.observation, frame.phase
        self.steps += 1
        self.seconds["simulation"] += frame.simulation_seconds
        self.seconds["rendering"] += frame.rendering_seconds

    def record(self, success: bool, error: str | None) -> EpisodeRecord:
        seconds = {f"{part}_seconds": round(spent, 4) for part, spent in self.seconds.items()}
        return EpisodeRecord(self.number, self.seed, success, max(self.steps, 0), self.phase, error, **seconds)


@dataclasses.dataclass
class Rollout:
    """The loop: start episodes in free slots, collect every answer, ask the policy once for all of them.

    Attributes:
        played: episode to the actions that were executed in it.
    """

    task: Task
    policy: Policy
    pool: WorkerPool
    log: EpisodeLog
    shown: Progress
    played: dict[int, list[np.ndarray]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._live: dict[int, _Live] = {}
        self._waiting: deque[_Live] = deque()
        self._crashes_in_a_row = 0

    def run(self, todo: Sequence[tuple[int, int]]) -> None:
        """Plays these episodes, given by number and layout seed."""
        self._waiting.extend(_Live(number, seed) for number, seed in todo)
        self._start()
        if todo and hasattr(self.policy, "warm_up"):
            self.policy.warm_up()  # while the simulators start
        while self._waiting or self._live:
            for slot, answer in self.pool.collect().items():
                if slot in self._live:
                    self._settle(slot, answer)
            if self._live:
                self._act()
            self._start()

    def _start(self) -> None:
        free = [slot for slot in range(self.pool.slots) if slot not in self._live]
        fresh = list(zip(free, [self._waiting.popleft() for _ in free[: len(self._waiting)]]))
        if fresh:
            self.policy.reset([episode.number for _, episode in fresh])
        for slot, episode in fresh:
            self._live[slot] = episode
            self.pool.send(slot, "reset", episode.seed)

    def _settle(self, slot: int, answer: Any) -> None:
        """Takes what `WorkerPool.collect` has for an episode."""
        episode = self._live[slot]
        if isinstance(answer, Frame):
            episode.see(answer)
            if answer.done or episode.steps >= self.task.horizon:
                self._crashes_in_a_row = 0
                self._finish(slot, answer.success, None)
        elif not isinstance(answer, Crash):  # lost with a worker that another episode brought down
            self._play_again(slot, episode.again)
        elif episode.again and self.log.records:
            self._finish(slot, False, f"step {max(episode.steps, 0)}: {answer.message}")
        else:
            self._crashes_in_a_row += 1
            if self._crashes_in_a_row >= MAX_CRASHES_IN_A_ROW:
                raise UserError(
                    f"{MAX_CRASHES_IN_A_ROW} simulator failures in a row; the last: episode {episode.number} of "
                    f"{self.task.name}, layout seed {episode.seed}, step {max(episode.steps, 0)}: {answer.message}"
                )
            self._play_again(slot)

    def _act(self) -> None:
        slots = sorted(self._live)
        episodes = [self._live[slot] for slot in slots]
        numbers = [episode.number for episode in episodes]
        started = time.perf_counter()
        actions, faults = usable_actions(
            self.policy, self.policy.act(self._batch(episodes), numbers), (len(slots), self.task.action_dim)
        )
        share = (time.perf_counter() - started) / len(slots)
        forgotten = getattr(self.policy, "forgotten", ())
        for row, (slot, episode) in enumerate(zip(slots, episodes)):
            episode.seconds["policy"] += share
            if row in faults:
                self._finish(slot, False, f"step {episode.steps}: {faults[row]}")
            elif episode.number not in forgotten:
                episode.actions.append(actions[row])
                self.pool.send(slot, "step", actions[row])
            elif episode.again:
                raise UserError(f"the policy's server lost the connection of episode {episode.number} again")
            else:
                self._play_again(slot)

    def _batch(self, episodes: Sequence[_Live]) -> dict[str, np.ndarray]:
        privileged = getattr(self.policy, "privileged", False)
        keys = [key for key in episodes[0].observation if privileged or key != EXPERT_ACTION]
        batch = {key: np.stack([episode.observation[key] for episode in episodes]) for key in keys}
        if "language_instruction" not in batch or isinstance(self.task, SimTask):
            batch["language_instruction"] = np.array([self.task.instruction] * len(episodes))
        return batch

    def _play_again(self, slot: int, again: bool = True) -> None:
        episode = self._live.pop(slot)
        forget(self.policy, [episode.number])
        self._waiting.append(_Live(episode.number, episode.seed, again))

    def _finish(self, slot: int, success: bool, error: str | None) -> None:
        episode = self._live.pop(slot)
        forget(self.policy, [episode.number])
        self.log.append(episode.record(success, error))
        self.played[episode.number] = episode.actions
        won = sum(record.success for record in self.log.records.values())
        self.shown.advance(1, f"{won} of {len(self.log.records)} succeeded")


def usable_actions(
    policy: Policy, answer: Any, shape: tuple[int, int]
) -> tuple[Float[np.ndarray, "B A"], dict[int, str]]:
    """What a policy returned, clipped to [-1, 1], and by row why it is unusable.

    Raises UserError: it has another shape.
    """
    actions = np.asarray(answer, np.float32)
    if actions.shape != shape:
        raise UserError(
            f"{policy.name} returned actions of shape {actions.shape}, the task takes {shape}: was it trained for it?"
        )
    odd = ~(np.abs(actions) <= MOST_ACTION)  # also NaN
    faults = {}
    for row in np.flatnonzero(odd.any(1)).tolist():
        columns = np.flatnonzero(odd[row]).tolist()
        found = ", ".join(f"{value:g}" for value in actions[row, columns])
        faults[row] = f"the policy returned {found} in action entries {columns}; actions lie in -1 to 1"
    if (np.abs(actions[~odd]) > 2).any():  # networks overshoot a little
        warnings.warn(f"{policy.name} returned actions beyond ±2, which are cut to -1 to 1", stacklevel=2)
    return np.clip(np.where(odd, 0, actions), -1, 1), faults
