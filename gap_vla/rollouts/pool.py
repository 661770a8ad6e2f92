"""The parent's side of the simulator processes: send commands, collect answers, replace workers that hang or die."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import wait

from gap_vla.core.processes import single_threaded
from gap_vla.rollouts.task import Task
from gap_vla.rollouts.worker import Crash, Frame, Privilege, Reset, Step, serve


class _Worker:
    """One process, the slots it holds, and the answers it still owes (in the order in which it will give them)."""

    def __init__(self, task: Task, privilege: Privilege, slots: Sequence[int], number: int) -> None:
        self._task, self._privilege, self._number = task, privilege, number
        self.slots = tuple(slots)
        self.start()

    def start(self) -> None:
        self.owed: list[int] = []
        self.fresh = set(self.slots)  # slots that have not answered yet: their first answer includes imports and GL
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve,
            args=(theirs, self._task, self._privilege),
            daemon=True,
            name=f"simulator-{self._number}",
        )
        with single_threaded():
            self.process.start()
        theirs.close()
        self.heard = time.monotonic()

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
        start_limit: the same for an environment's first answer, which includes starting and building it.
    """

    def __init__(
        self,
        task: Task,
        workers: int,
        slots_per_worker: int,
        privilege: Privilege,
        *,
        step_limit: float,
        start_limit: float,
    ) -> None:
        self._limits = {False: step_limit, True: start_limit}
        numbers = range(workers * slots_per_worker)
        self._workers = [_Worker(task, privilege, numbers[w::workers], w) for w in range(workers)]
        self._of_slot = {slot: worker for worker in self._workers for slot in worker.slots}

    @property
    def slots(self) -> int:
        return len(self._of_slot)

    def send(self, command: Reset | Step) -> None:
        worker = self._of_slot[command.slot]
        if not worker.owed:
            worker.heard = time.monotonic()
        worker.owed.append(command.slot)
        with contextlib.suppress(OSError):  # a dead worker is noticed, with its exit code, when its answer is awaited
            worker.connection.send(command)

    def collect(self) -> dict[int, Frame | Crash | None]:
        """Waits for everything that is owed. None: lost with its worker through no fault of its own; start it again."""
        answers: dict[int, Frame | Crash | None] = {}
        while owing := [worker for worker in self._workers if worker.owed]:
            patience = min(self._deadline(worker) for worker in owing) - time.monotonic()
            ready = wait([worker.connection for worker in owing], timeout=max(patience, 0.0))
            for worker in owing:
                if worker.connection in ready:
                    self._receive(worker, answers)
                elif time.monotonic() > self._deadline(worker):
                    limit = self._limit(worker)
                    self._replace(worker, f"the simulator did not answer within {limit:.0f} s", answers)
        return answers

    def close(self) -> None:
        for worker in self._workers:
            worker.stop(patience=0.0 if worker.owed else 5.0)

    def _limit(self, worker: _Worker) -> float:
        return self._limits[worker.owed[0] in worker.fresh]

    def _deadline(self, worker: _Worker) -> float:
        return worker.heard + self._limit(worker)

    def _receive(self, worker: _Worker, answers: dict[int, Frame | Crash | None]) -> None:
        try:
            reply = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(1.0)
            self._replace(worker, f"the simulator process died (exit code {worker.process.exitcode})", answers)
            return
        worker.heard = time.monotonic()
        worker.owed.remove(reply.slot)
        worker.fresh.discard(reply.slot)
        answers[reply.slot] = reply

    def _replace(self, worker: _Worker, why: str, answers: dict[int, Frame | Crash | None]) -> None:
        """The answer that was due is a crash; every other episode of this process is lost with it."""
        culprit = worker.owed[0]
        answers.update(dict.fromkeys(worker.slots))
        answers[culprit] = Crash(culprit, why, why)
        worker.process.kill()
        worker.stop(patience=5.0)
        worker.start()
