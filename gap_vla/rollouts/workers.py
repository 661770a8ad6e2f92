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
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gap_vla.core.processes import spawned
from gap_vla.rollouts.policy import EXPERT_ACTION
from gap_vla.rollouts.task import ActingExpert, Task, Watcher

SIMULATOR = "the simulator"
"""How the error of an episode begins, after the step, that was cut short by the simulator and not by the policy."""

FPS = 20.0
"""Pictures per second of films."""


@dataclasses.dataclass(frozen=True)
class Reset:
    slot: int
    layout_seed: int


@dataclasses.dataclass(frozen=True)
class Step:
    slot: int
    action: np.ndarray


@dataclasses.dataclass(frozen=True)
class Film:
    """Plays an episode's actions again, for its film; the simulator does the same as before."""

    slot: int
    layout_seed: int
    actions: Sequence[np.ndarray]
    path: Path


Command = Reset | Step | Film


@dataclasses.dataclass(frozen=True)
class Frame:
    """What one reset or step led to."""

    slot: int
    observation: dict[str, Any]
    done: bool  # the episode has ended, by success or by the environment's own horizon
    success: bool
    phase: str | None
    simulation_seconds: float  # both 0 for an environment's first answers
    rendering_seconds: float


@dataclasses.dataclass(frozen=True)
class Filmed:
    slot: int
    success: bool


@dataclasses.dataclass(frozen=True)
class Crash:
    """The simulator raised (`traceback` is the worker's), or its process was lost: it hung, or died.

    A lost process says little about the episode, for a busy machine, or one without memory, loses processes too.
    """

    slot: int
    message: str
    traceback: str = ""
    lost: bool = False


Answer = Frame | Filmed | Crash

STARTING_ANSWERS = 2
"""Of an environment: the first includes the process's start, imports and building it, the second its first step, in
which simulators compile, and draw what they have not drawn before."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds to wait for one answer of a simulator; the first ones include building it and what it compiles.

    The longer limit also holds for a film.
    """

    simulator: float = 60.0
    simulator_first: float = 300.0


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
        self._starting = 0

    def reset(self, command: Reset) -> Frame:
        started = time.perf_counter()
        if self._env is None:
            self._env, self._starting = self._task.make(), STARTING_ANSWERS
        observation, info = self._env.reset(seed=command.layout_seed)
        self._phase = self._expert = self._watcher = None
        if self._privilege == "actions":
            self._expert = self._task.make_expert(self._env, seed=command.layout_seed)
        elif self._privilege == "phases":
            self._watcher = self._task.make_watcher(self._env)  # type: ignore[attr-defined]
        return self._frame(command.slot, observation, {**info, "success": False}, False, started)

    def step(self, command: Step) -> Frame:
        started = time.perf_counter()
        observation, _, terminated, truncated, info = self._env.step(command.action)
        return self._frame(command.slot, observation, info, bool(terminated or truncated), started)

    def close(self) -> None:
        """Frees the environment; the next reset makes a new one."""
        if self._env is not None:
            with contextlib.suppress(Exception):  # a broken simulator need not close well
                self._env.close()
        self._env = self._expert = self._watcher = None

    def _frame(self, slot: int, observation: dict, info: dict, ended: bool, started: float) -> Frame:
        success = bool(info["success"])
        observation = {key: value for key, value in observation.items() if value is not None}
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
        rendering = float(info.get("render_seconds", 0.0))
        simulation = max(time.perf_counter() - started - rendering, 0.0)
        if self._starting:  # what the machine takes to begin says nothing about a step
            self._starting, simulation, rendering = self._starting - 1, 0.0, 0.0
        return Frame(slot, observation, ended or success, success, self._phase, simulation, rendering)


class _Studio:
    """Makes films, in an environment of its own."""

    def __init__(self, task: Task) -> None:
        self._task = task.filmed() if hasattr(task, "filmed") else task
        self._env: Any = None

    def film(self, command: Film) -> Filmed:
        from gap_vla.drawing.video import write_video

        if self._env is None:
            self._env = self._task.make()
        success = False

        def pictures() -> Iterator[np.ndarray]:
            nonlocal success
            observation, _ = self._env.reset(seed=command.layout_seed)
            yield _picture(observation)
            for action in command.actions:
                observation, _, _, _, info = self._env.step(action)
                success = bool(info["success"])
                yield _picture(observation)

        write_video(command.path, pictures(), fps=FPS)
        return Filmed(command.slot, success)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


def _picture(observation: dict[str, Any]) -> np.ndarray:
    """That of the primary camera, or of another one if it is not shown."""
    seen = [key for key in observation if key.startswith("image_")]
    return observation[min(seen, key=lambda key: (key != "image_primary", key))]


def serve(connection: Connection, task: Task, privilege: Privilege | None) -> None:
    """Answers every command, in order, until the pipe closes."""
    slots: dict[int, _Slot] = {}
    studio = _Studio(task)
    try:
        while True:
            command = connection.recv()
            slot = slots.setdefault(command.slot, _Slot(task, privilege))
            connection.send(_answer(slot, studio, command))
    except (EOFError, OSError):
        pass  # the parent has closed the pipe or is gone
    finally:
        for slot in slots.values():
            slot.close()  # frees OpenGL while it is still there
        studio.close()


def _answer(slot: _Slot, studio: _Studio, command: Command) -> Answer:
    try:
        if isinstance(command, Film):
            slot.close()
            return studio.film(command)
        return slot.reset(command) if isinstance(command, Reset) else slot.step(command)
    except Exception as error:
        slot.close()
        said = " ".join(str(error).split())[:1000]
        return Crash(command.slot, f"{SIMULATOR} failed: {type(error).__name__}: {said}", traceback.format_exc())


class _Worker:
    """One process, the slots it holds, and the commands that it has not answered; the first of them has been sent."""

    def __init__(self, task: Task, privilege: Privilege | None, slots: Sequence[int], number: int) -> None:
        self._task, self._privilege, self._number = task, privilege, number
        self.slots = tuple(slots)
        self.start()

    def start(self) -> None:
        self.commands: deque[Command] = deque()
        self.starting = dict.fromkeys(self.slots, STARTING_ANSWERS)
        self.connection, theirs = Pipe()
        self.process = spawned(serve, theirs, self._task, self._privilege, name=f"simulator-{self._number}")
        theirs.close()
        self.sent = 0.0

    def take(self, command: Command) -> None:
        self.commands.append(command)
        if len(self.commands) == 1:
            self._send()

    def answered(self) -> None:
        """The first command is; the next one is sent."""
        self.commands.popleft()
        if self.commands:
            self._send()

    def _send(self) -> None:
        self.sent = time.monotonic()
        with contextlib.suppress(OSError):  # a dead worker is noticed, with its exit code, when it is awaited
            self.connection.send(self.commands[0])

    def stop(self, patience: float) -> None:
        self.connection.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class WorkerPool:
    """`workers` processes with `slots_per_worker` environments each; one that exceeds its limit is replaced."""

    def __init__(
        self, task: Task, workers: int, slots_per_worker: int, privilege: Privilege | None, limits: Limits
    ) -> None:
        self._limits = limits
        numbers = range(workers * slots_per_worker)
        self._workers = [_Worker(task, privilege, numbers[w::workers], w) for w in range(workers)]
        self._of_slot = {slot: worker for worker in self._workers for slot in worker.slots}

    @property
    def slots(self) -> int:
        return len(self._of_slot)

    def send(self, command: Command) -> None:
        self._of_slot[command.slot].take(command)

    def collect(self) -> dict[int, Answer | None]:
        """Waits for everything that is owed. None: lost with its worker through no fault of its own; start it again."""
        answers: dict[int, Answer | None] = {}
        while owing := [worker for worker in self._workers if worker.commands]:
            patience = min(worker.sent + self._limit(worker) for worker in owing) - time.monotonic()
            ready = wait([worker.connection for worker in owing], timeout=max(patience, 0.0))
            for worker in owing:
                if worker.connection in ready:
                    self._receive(worker, answers)
                elif time.monotonic() >= worker.sent + (limit := self._limit(worker)):
                    self._replace(worker, f"{SIMULATOR} did not answer within {limit:g} s", answers)
        return answers

    def close(self) -> None:
        for worker in self._workers:
            worker.stop(patience=0.0 if worker.commands else 5.0)

    def _limit(self, worker: _Worker) -> float:
        command = worker.commands[0]
        starting = isinstance(command, Film) or worker.starting[command.slot] > 0
        return self._limits.simulator_first if starting else self._limits.simulator

    def _receive(self, worker: _Worker, answers: dict[int, Answer | None]) -> None:
        try:
            reply = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(1.0)
            self._replace(worker, f"{SIMULATOR} process died (exit code {worker.process.exitcode})", answers)
            return
        worker.answered()
        worker.starting[reply.slot] -= 1
        if isinstance(reply, Crash):  # its environment was closed, and is built anew
            worker.starting[reply.slot] = STARTING_ANSWERS
        answers[reply.slot] = reply

    def _replace(self, worker: _Worker, why: str, answers: dict[int, Answer | None]) -> None:
        """The answer that was due is a crash; every other episode of this process is lost with it."""
        culprit = worker.commands[0].slot
        answers.update(dict.fromkeys(worker.slots))
        answers[culprit] = Crash(culprit, why, lost=True)
        worker.process.kill()
        worker.stop(patience=5.0)
        worker.start()
