"""Rolls a policy out: simulators in processes of their own, one batched policy here, one JSON line per episode."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.foreign import one_line, refusing
from gap_vla.core.progress import Progress
from gap_vla.rollouts.policy import GuardedPolicy, PolicyUnavailable
from gap_vla.rollouts.record import SIMULATOR, EpisodeLog, EpisodeRecord, EvaluationError, VideoShelf
from gap_vla.rollouts.task import SimTask, Task
from gap_vla.rollouts.workers import Crash, Frame, Reset, Step, WorkerPool

MAX_LOST_IN_A_ROW = 3
"""So many simulator failures without a finished episode between them mean that the machine, not a layout, is broken."""

MAX_FORGOTTEN = 3
"""So often an episode is played anew because the policy's server has lost what it kept of it."""

MAX_SILENT_IN_A_ROW = 3
"""So many calls in a row without an answer in time mean that the policy, or its server, hangs for good."""


def not_finite(observation: Mapping[str, Any]) -> str | None:
    """Which array of an observation holds NaN or infinity, and where; None if none does. Others are words."""
    for key, value in observation.items():
        with contextlib.suppress(ValueError, TypeError, RuntimeError):  # what is no array is named where it becomes one
            if (found := np.asarray(value)).dtype.kind in "fc" and not np.isfinite(found).all():
                return f"{key} is NaN or infinite at index {int(np.argmin(np.isfinite(found)))}"
    return None


@dataclasses.dataclass
class _Live:
    """An episode that is under way."""

    number: int
    seed: int
    again: bool = False  # it was lost once with its simulator, or could not begin, and is tried a second time
    observation: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    pictures: list[np.ndarray] = dataclasses.field(default_factory=list)
    steps: int = -1  # becomes 0 with the first observation
    phase: str | None = None
    simulation: float = 0.0
    rendering: float = 0.0
    policy: float = 0.0

    def take(self, frame: Frame, film: bool) -> None:
        self.observation, self.phase = frame.observation, frame.phase
        self.steps += 1
        self.simulation += frame.simulation_seconds
        self.rendering += frame.rendering_seconds
        seen = [key for key in frame.observation if key.startswith("image_")]
        if seen and film:  # the primary camera's view is filmed, or that of another one if it is not shown
            self.pictures.append(frame.observation[min(seen, key=lambda key: (key != "image_primary", key))])

    def record(self, success: bool, error: str | None) -> EpisodeRecord:
        seconds = {f"{part}_seconds": round(getattr(self, part), 4) for part in ("simulation", "rendering", "policy")}
        return EpisodeRecord(self.number, self.seed, success, max(self.steps, 0), self.phase, error, **seconds)


@dataclasses.dataclass
class Rollout:
    """The loop: start episodes in free slots, collect every answer, ask the policy once for all of them."""

    task: Task
    policy: GuardedPolicy
    pool: WorkerPool
    log: EpisodeLog
    shelf: VideoShelf
    shown: Progress

    def __post_init__(self) -> None:
        self._live: dict[int, _Live] = {}
        self._lost_in_a_row, self._begun = 0, False
        self._unanswered: list[tuple[_Live, str]] = []
        self._forgotten: Counter[int] = Counter()  # by episode

    def run(self, todo: Sequence[tuple[int, int]]) -> None:
        """Raises PolicyUnavailable if the policy hangs for good, or its server forgets an episode again and again;
        episodes lost to that are not recorded."""
        waiting = deque(_Live(number, seed) for number, seed in todo)
        self._start(waiting)
        self.policy.warm_up()  # while the simulators start
        while waiting or self._live:
            for slot, answer in self.pool.collect().items():
                self._settle(slot, answer, waiting)
            self._act(waiting)
            self._start(waiting)
        if self._unanswered and not self.policy.answered:
            raise PolicyUnavailable(self._unanswered[0][1].partition(": ")[2])
        self._record_unanswered()

    def _start(self, waiting: deque[_Live]) -> None:
        free = [slot for slot in range(self.pool.slots) if slot not in self._live]
        fresh = list(zip(free, [waiting.popleft() for _ in free[: len(waiting)]]))
        if not fresh:
            return
        fault = self.policy.reset([episode.number for _, episode in fresh])
        for slot, episode in fresh:
            self._live[slot] = episode
            if fault is None:
                self.pool.send(Reset(slot, episode.seed))
            else:
                self._finish(slot, False, f"at the start: {fault}")

    def _settle(self, slot: int, answer: Frame | Crash | None, waiting: deque[_Live]) -> None:
        episode = self._live.get(slot)
        if episode is None:
            return
        if isinstance(answer, Frame):
            episode.take(answer, self.shelf.films)
            self._begun = True
            unusable = not_finite(answer.observation)
            if unusable is not None:
                self._lost_in_a_row = 0
                self._finish(slot, False, f"step {episode.steps}: {SIMULATOR}'s {unusable}")
            elif answer.done or episode.steps >= self.task.horizon:
                self._lost_in_a_row = 0
                self._finish(slot, answer.success, None)
            return
        if isinstance(answer, Crash):
            starting = episode.steps < 0  # if no other episode has begun either, no layout is to blame
            given_up = episode.again and (self._begun or not starting)
            self._lost_in_a_row += not given_up  # an episode counts once
            if self._lost_in_a_row >= MAX_LOST_IN_A_ROW:
                raise EvaluationError(
                    f"{MAX_LOST_IN_A_ROW} simulator failures in a row; the last: episode {episode.number} of "
                    f"{self.task.name}, layout seed {episode.seed}, step {max(episode.steps, 0)}: {answer.message}"
                ) from RuntimeError(answer.traceback)
            if given_up or not (starting or answer.lost):
                again = " (and so when it was tried again)" if starting or answer.lost else ""
                self._finish(slot, False, f"step {max(episode.steps, 0)}: {answer.message}{again}")
                return
        # Lost with a worker that another episode brought down, or for the first time: try it (again).
        del self._live[slot]
        waiting.append(_Live(episode.number, episode.seed, again=episode.again or isinstance(answer, Crash)))

    def _act(self, waiting: deque[_Live]) -> None:
        slots = sorted(self._live)
        if not slots:
            return
        episodes = [self._live[slot] for slot in slots]
        keys = dict.fromkeys(key for episode in episodes for key in episode.observation)
        with refusing("what the simulators show", "let all of them show the same arrays", EvaluationError):
            batch = {key: np.stack([episode.observation[key] for episode in episodes]) for key in keys}
        texts = [self.task.instruction] * len(slots)
        if "language_instruction" in batch and not isinstance(self.task, SimTask):  # of each layout its own
            texts = batch["language_instruction"].tolist()
            if odd := [text for text in texts if not isinstance(text, str)]:
                raise EvaluationError(f"{self.task.name}: language_instruction is {odd[0]!r:.60}; let it be a text")
        batch["language_instruction"] = np.array(texts)
        started = time.perf_counter()
        actions, faults = self.policy.act(batch, [episode.number for episode in episodes])
        share = (time.perf_counter() - started) / len(slots)
        if not self.policy.silent:
            self._record_unanswered()  # it answers again: those episodes were lost to a hang of their own
        for row, (slot, episode) in enumerate(zip(slots, episodes)):
            episode.policy += share
            if row in faults:
                self._finish(slot, False, f"step {episode.steps}: {faults[row]}")
            elif episode.number in self.policy.forgotten:
                self._play_anew(slot, waiting)
            else:
                self.pool.send(Step(slot, actions[row]))

    def _play_anew(self, slot: int, waiting: deque[_Live]) -> None:
        episode = self._live.pop(slot)
        self._forgotten[episode.number] = times = self._forgotten[episode.number] + 1
        if times > MAX_FORGOTTEN:
            lost = f"the policy's server lost the connection of episode {episode.number} in {times} attempts to play it"
            raise PolicyUnavailable(f"{lost}; let it keep one to the episode's end")
        self.policy.forget([episode.number])
        waiting.append(_Live(episode.number, episode.seed, again=episode.again))

    def _finish(self, slot: int, success: bool, error: str | None) -> None:
        episode = self._live.pop(slot)
        self.policy.forget([episode.number])
        if error is not None and self.policy.silent:
            self._unanswered.append((episode, error))
            if self.policy.silent >= MAX_SILENT_IN_A_ROW:
                raise PolicyUnavailable(f"{self.policy.silent} times in a row {error.partition(': ')[2]}")
        else:
            self._record(episode, success, error)

    def _record_unanswered(self) -> None:
        for episode, error in self._unanswered:
            self._record(episode, False, error)
        self._unanswered.clear()

    def _record(self, episode: _Live, success: bool, error: str | None) -> None:
        self.log.append(episode.record(success, error and one_line(error, 2000)))  # what others say may be no text
        self.log.require_there()  # else the film would make the folder anew
        self.shelf.add(episode.number, success, episode.pictures)
        won = sum(record.success for record in self.log.records.values())
        self.shown.advance(1, f"{won} of {len(self.log.records)} succeeded")
