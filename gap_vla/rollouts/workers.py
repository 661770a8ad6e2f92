"""The simulator processes: what one of them does, and the parent's side, which replaces those that hang or die.

A process holds environments, obeys one command at a time and knows nothing of policies. It is spawned, never forked,
and makes its renderers itself: a forked child of a process that has made a GL context hangs for ever. It ends when its
parent does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import numpy as np

from gap_vla.core.foreign import finite, one_line
from gap_vla.core.processes import spawned
from gap_vla.rollouts.policy import EXPERT_ACTION
from gap_vla.rollouts.record import SIMULATOR, EvaluationError
from gap_vla.rollouts.task import ActingExpert, Task, Watcher


@dataclasses.dataclass(frozen=True)
class Reset:
    slot: int
    layout_seed: int


@dataclasses.dataclass(frozen=True)
class Step:
    slot: int
    action: np.ndarray


@dataclasses.dataclass(frozen=True)
class Frame:
    """What one reset or step led to."""

    slot: int
    observation: dict[str, np.ndarray]
    done: bool
    success: bool
    phase: str | None
    simulation_seconds: float  # both 0 for an environment's first answers
    rendering_seconds: float


@dataclasses.dataclass(frozen=True)
class Crash:
    """The simulator raised (`traceback` is the worker's), or its process was lost: it hung, or died.

    A lost process says little about the episode, for a busy machine, or one without memory, loses processes too.
    """

    slot: int
    message: str
    traceback: str
    lost: bool = False


_AT_ONCE = 8
"""Commands that a worker is sent at most before it is listened to."""
_PIPE = 2**16
"""Bytes that fit into a pipe, whatever becomes of the answers; a single command more is read as it comes."""
_PART = 1.0
"""Seconds of a wait; see `gap_vla.core.processes.parts`."""

STARTING_ANSWERS = 2
"""Of an environment: the first includes the process's start, imports and building it, the second its first step, in
which simulators compile, and draw what they have not drawn before."""


Privilege = Literal["actions", "phases"]
"""What the full state is used for: the expert acts, and if it fails, so does the episode; or a watcher names the phase,
and is left out from where it cannot cope with what a policy has done."""


class _Slot:
    """One environment, and who looks at its full state."""

    def __init__(self, task: Task, privilege: Privilege | None) -> None:
        self._task, self._privilege = task, privilege
        self._env: Any = None
        self._expert: ActingExpert | None = None
        self._watcher: Watcher | None = None
        self._phase: str | None = None
        self._absent: set[str] = set()
        self._starting = 0

    def reset(self, command: Reset) -> Frame:
        started = time.perf_counter()
        if self._env is None:
            self._env, self._starting = self._task.make(), STARTING_ANSWERS
        observation, info = self._env.reset(seed=command.layout_seed)
        info = {**info, "success": False}  # it takes a step
        self._absent = {key for key, value in observation.items() if value is None}  # which it never shows
        self._phase = self._expert = self._watcher = None
        if self._privilege == "actions":
            self._expert = self._task.make_expert(self._env, seed=command.layout_seed)
        elif self._privilege == "phases":
            self._watcher = self._task.make_watcher(self._env)
        return self._frame(command.slot, observation, info, False, started)

    def step(self, command: Step) -> Frame:
        started = time.perf_counter()
        observation, _, terminated, truncated, info = self._env.step(command.action)
        if info.get("success") not in (0, 1):
            raise ValueError(f"its info has success {info.get('success')!r} after a step; it must be 0 or 1")
        return self._frame(command.slot, observation, info, bool(terminated or truncated), started)

    def close(self) -> None:
        """Frees the environment; the next reset makes a new one."""
        if self._env is not None:
            with contextlib.suppress(Exception):  # a broken simulator need not close well
                self._env.close()
        self._env = self._expert = self._watcher = None

    def _frame(self, slot: int, observation: dict, info: dict, ended: bool, started: float) -> Frame:
        observation = dict(observation)
        if lost := [key for key, value in observation.items() if value is None and key not in self._absent]:
            raise ValueError(f"it shows no {lost[0]}")
        success = bool(info.get("success", False))
        if self._expert is not None:
            try:
                observation[EXPERT_ACTION] = np.asarray(self._expert.act(), np.float32)
                self._phase = self._expert.phase
            except Exception:
                if not (ended or success):  # behind its end an episode needs no action
                    raise
        elif self._watcher is not None:
            try:
                self._phase = self._watcher.look()
            except Exception:
                self._watcher = None
        if self._phase is not None and self._task.phases and self._phase not in self._task.phases:
            raise ValueError(f"phase {self._phase!r} is none of its task's phases")
        rendering = finite("its info's render_seconds", info.get("render_seconds", 0.0), 0, 1e9, EvaluationError)
        simulation = max(time.perf_counter() - started - rendering, 0.0)
        if self._starting:  # what the machine takes to begin says nothing about a step
            self._starting, simulation, rendering = self._starting - 1, 0.0, 0.0
        return Frame(slot, observation, ended or success, success, self._phase, simulation, rendering)


def serve(connection: Connection, task: Task, privilege: Privilege | None) -> None:
    """Answers every `Reset` and `Step` with a `Frame` or a `Crash`, in order, until the pipe closes."""
    slots: dict[int, _Slot] = {}
    try:
        while True:
            command = connection.recv()
            connection.send(_answer(slots.setdefault(command.slot, _Slot(task, privilege)), command))
    except (EOFError, OSError):
        pass  # the parent has closed the pipe or is gone
    finally:
        for slot in slots.values():
            slot.close()  # frees OpenGL while it is still there


def _answer(slot: _Slot, command: Reset | Step) -> Frame | Crash:
    try:
        return slot.reset(command) if isinstance(command, Reset) else slot.step(command)
    except Exception as error:
        slot.close()
        return Crash(
            command.slot, f"{SIMULATOR} failed: {type(error).__name__}: {one_line(error, 1000)}", traceback.format_exc()
        )


class _Worker:
    """One process, the slots it holds, and the answers it still owes (in the order in which it will give them)."""

    def __init__(self, task: Task, privilege: Privilege | None, slots: Sequence[int], number: int) -> None:
        self._task, self._privilege, self._number = task, privilege, number
        self._at_once = min(_AT_ONCE, max(1, _PIPE // (8 * task.action_dim + 1000)))
        self.slots = tuple(slots)
        self.start()

    def start(self) -> None:
        self.owed: list[int] = []
        self.waiting: deque[Reset | Step] = deque()  # the last of what is owed, not sent yet
        self.starting = dict.fromkeys(self.slots, STARTING_ANSWERS)
        self.connection, theirs = Pipe()
        self.process = spawned(serve, theirs, self._task, self._privilege, name=f"simulator-{self._number}")
        theirs.close()
        self.heard = 0.0

    def send(self) -> None:
        """As many as are answered without anybody listening: with both pipes full each would wait for the other."""
        while self.waiting and len(self.owed) - len(self.waiting) < self._at_once:
            with contextlib.suppress(OSError):  # a dead worker is noticed, with its exit code, when it is awaited
                self.connection.send(self.waiting.popleft())

    def stop(self, patience: float) -> None:
        self.connection.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class WorkerPool:
    """`workers` processes with `slots_per_worker` environments each.

    Args:
        step_limit: seconds a worker may take for one answer; a worker that exceeds it is killed and replaced.
        start_limit: the same for an environment's first answers (`STARTING_ANSWERS`); at least `step_limit`.
    """

    def __init__(
        self,
        task: Task,
        workers: int,
        slots_per_worker: int,
        privilege: Privilege | None,
        *,
        step_limit: float,
        start_limit: float,
    ) -> None:
        self._limits = {False: step_limit, True: max(step_limit, start_limit)}
        numbers = range(workers * slots_per_worker)
        self._workers = [_Worker(task, privilege, numbers[w::workers], w) for w in range(workers)]
        self._of_slot = {slot: worker for worker in self._workers for slot in worker.slots}
        self._waited = 0.0  # seconds, the clock of `heard`

    @property
    def slots(self) -> int:
        return len(self._of_slot)

    def send(self, command: Reset | Step) -> None:
        worker = self._of_slot[command.slot]
        if not worker.owed:
            worker.heard = self._waited
        worker.owed.append(command.slot)
        worker.waiting.append(command)
        worker.send()

    def collect(self) -> dict[int, Frame | Crash | None]:
        """Waits for everything that is owed. None: lost with its worker through no fault of its own; start it again."""
        answers: dict[int, Frame | Crash | None] = {}
        while owing := [worker for worker in self._workers if worker.owed]:
            patience = min(worker.heard + self._limit(worker) for worker in owing) - self._waited
            part, asked = min(max(patience, 0.0), _PART), time.monotonic()
            ready = wait([worker.connection for worker in owing], timeout=part)
            self._waited += min(time.monotonic() - asked, part)  # it took longer if this process was stopped (Ctrl-Z)
            for worker in owing:
                if worker.connection in ready:
                    self._receive(worker, answers)
                elif self._waited >= worker.heard + (limit := self._limit(worker)):
                    self._replace(worker, f"{SIMULATOR} did not answer within {limit:.0f} s", answers)
        return answers

    def close(self) -> None:
        for worker in self._workers:
            worker.stop(patience=0.0 if worker.owed else 5.0)

    def _limit(self, worker: _Worker) -> float:
        return self._limits[worker.starting[worker.owed[0]] > 0]

    def _receive(self, worker: _Worker, answers: dict[int, Frame | Crash | None]) -> None:
        try:
            reply = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(1.0)
            self._replace(worker, f"{SIMULATOR} process died (exit code {worker.process.exitcode})", answers)
            return
        worker.heard = self._waited
        worker.owed.remove(reply.slot)
        worker.send()
        worker.starting[reply.slot] -= 1
        if isinstance(reply, Crash):  # its environment was closed, and is built anew
            worker.starting[reply.slot] = STARTING_ANSWERS
        answers[reply.slot] = reply

    def _replace(self, worker: _Worker, why: str, answers: dict[int, Frame | Crash | None]) -> None:
        """The answer that was due is a crash; every other episode of this process is lost with it."""
        culprit = worker.owed[0]
        answers.update(dict.fromkeys(worker.slots))
        answers[culprit] = Crash(culprit, why, why, lost=True)
        worker.process.kill()
        worker.stop(patience=5.0)
        worker.start()
