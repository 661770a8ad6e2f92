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
from jaxtyping import Float

from gap_vla.core.processes import spawned
from gap_vla.rollouts.policy import EXPERT_ACTION
from gap_vla.rollouts.task import Task

SIMULATOR = "the simulator"
"""How the error of an episode begins, after the step, that was cut short by the simulator and not by the policy."""

FPS = 20.0
"""Pictures per second of films."""

LIMIT = 300.0
"""Seconds to wait for one answer of a simulator, which may include building it and what it compiles, or a film."""

Privilege = Literal["actions", "phases"]
"""What the full state is used for: the expert acts, and if it fails, so does the episode; or a watcher names the phase,
and is left out from where it cannot cope with what a policy has done."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """What one reset or step led to."""

    observation: dict[str, Any]
    done: bool  # the episode has ended, by success or by the environment's own horizon
    success: bool
    phase: str | None


@dataclasses.dataclass(frozen=True)
class Crash:
    """The simulator raised, or its process hung or died."""

    message: str


class Slot:
    """One environment, and who looks at its full state."""

    def __init__(self, task: Task, privilege: Privilege | None) -> None:
        self._task, self._privilege = task, privilege
        self._env: Any = None
        self._expert: Any = None
        self._watcher: Any = None
        self._phase: str | None = None
        self._studio: Slot | None = None

    def reset(self, layout_seed: int) -> Frame:
        if self._env is None:
            self._env = self._task.make()
        observation, _ = self._env.reset(seed=layout_seed)
        self._phase = self._expert = self._watcher = None
        if self._privilege == "actions":
            self._expert = self._task.make_expert(self._env, seed=layout_seed)
        elif self._privilege == "phases":
            self._watcher = self._task.make_watcher(self._env)  # type: ignore[attr-defined]
        return self._frame(observation, success=False, ended=False)

    def step(self, action: Float[np.ndarray, " A"]) -> Frame:
        observation, _, terminated, truncated, info = self._env.step(action)
        return self._frame(observation, bool(info["success"]), bool(terminated or truncated))

    def film(self, layout_seed: int, actions: Float[np.ndarray, "T A"], path: Path) -> bool:
        """Plays an episode again with pictures for people; whether it succeeds. The simulator does as before."""
        from gap_vla.drawing.video import write_video

        if self._studio is None:
            self.close()
            self._studio = Slot(self._task.filmed() if hasattr(self._task, "filmed") else self._task, None)
        studio, success = self._studio, False

        def pictures() -> Iterator[np.ndarray]:
            nonlocal success
            yield _picture(studio.reset(layout_seed).observation)
            for action in actions:
                frame = studio.step(action)
                success = frame.success
                yield _picture(frame.observation)

        write_video(path, pictures(), fps=FPS)
        return success

    def close(self) -> None:
        """Frees the environments; the next reset makes a new one."""
        with contextlib.suppress(Exception):  # a broken simulator need not close well
            if self._env is not None:
                self._env.close()
        if self._studio is not None:
            self._studio.close()
        self._env = self._expert = self._watcher = self._studio = None

    def _frame(self, observation: dict[str, Any], success: bool, ended: bool) -> Frame:
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
        return Frame(observation, ended or success, success, self._phase)


def _picture(observation: dict[str, Any]) -> np.ndarray:
    """That of the primary camera, or of another one if it is not shown."""
    seen = [key for key in observation if key.startswith("image_")]
    return observation[min(seen, key=lambda key: (key != "image_primary", key))]


def serve(connection: Connection, task: Task, privilege: Privilege | None) -> None:
    """Answers commands in order, until the pipe closes. One is a slot, the name of a method, and its arguments."""
    slots: dict[int, Slot] = {}
    try:
        while True:
            number, method, arguments = connection.recv()
            slot = slots.setdefault(number, Slot(task, privilege))
            try:
                answer = getattr(slot, method)(*arguments)
            except Exception as error:
                traceback.print_exc()
                slot.close()
                said = " ".join(str(error).split())[:1000]
                answer = Crash(f"{SIMULATOR} failed: {type(error).__name__}: {said}")
            connection.send(answer)
    except (EOFError, OSError):
        pass  # the parent has closed the pipe or is gone
    finally:
        for slot in slots.values():
            slot.close()  # frees OpenGL while it is still there


class _Worker:
    """One process, the slots it holds, and the commands that it has not answered."""

    def __init__(self, task: Task, privilege: Privilege | None, slots: Sequence[int], number: int) -> None:
        self._task, self._privilege, self._number = task, privilege, number
        self.slots = tuple(slots)
        self.start()

    def start(self) -> None:
        self.owed: deque[int] = deque()  # slots
        self.since = time.monotonic()
        self.connection, theirs = Pipe()
        self.process = spawned(serve, theirs, self._task, self._privilege, name=f"simulator-{self._number}")
        theirs.close()

    def send(self, slot: int, method: str, arguments: tuple[Any, ...]) -> None:
        if not self.owed:
            self.since = time.monotonic()
        self.owed.append(slot)
        with contextlib.suppress(OSError):  # a dead worker is noticed, with its exit code, when it is awaited
            self.connection.send((slot, method, arguments))

    def receive(self) -> tuple[int, Any]:
        answer = self.connection.recv()
        self.since = time.monotonic()
        return self.owed.popleft(), answer

    def stop(self, patience: float) -> None:
        self.connection.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class WorkerPool:
    """`workers` processes with `slots_per_worker` environments each; one that hangs or dies is replaced."""

    def __init__(self, task: Task, workers: int, slots_per_worker: int, privilege: Privilege | None) -> None:
        numbers = range(workers * slots_per_worker)
        self._workers = [_Worker(task, privilege, numbers[w::workers], w) for w in range(workers)]
        self.slots = len(numbers)

    def __len__(self) -> int:
        return len(self._workers)

    def send(self, slot: int, method: str, *arguments: Any) -> None:
        """Has a slot do what the method of `Slot` does; slot n belongs to worker n modulo their number."""
        self._workers[slot % len(self)].send(slot, method, arguments)

    def collect(self) -> dict[int, Frame | bool | Crash | None]:
        """Waits for everything that is owed. None: lost with its worker through no fault of its own; start it again."""
        answers: dict[int, Any] = {}
        while owing := [worker for worker in self._workers if worker.owed]:
            patience = min(worker.since for worker in owing) + LIMIT - time.monotonic()
            ready = wait([worker.connection for worker in owing], timeout=max(patience, 0.0))
            for worker in owing:
                if worker.connection in ready:
                    try:
                        answers.update([worker.receive()])
                    except (EOFError, OSError):
                        worker.process.join(1.0)
                        self._replace(worker, f"process died (exit code {worker.process.exitcode})", answers)
                elif time.monotonic() >= worker.since + LIMIT:
                    self._replace(worker, f"did not answer within {LIMIT:g} s", answers)
        return answers

    def close(self) -> None:
        for worker in self._workers:
            worker.stop(patience=0.0 if worker.owed else 5.0)

    def _replace(self, worker: _Worker, why: str, answers: dict[int, Any]) -> None:
        """The answer that was due is a crash; every other episode of this process is lost with it."""
        answers |= {**dict.fromkeys(worker.slots), worker.owed[0]: Crash(f"{SIMULATOR} {why}")}
        worker.process.kill()
        worker.stop(patience=5.0)
        worker.start()
