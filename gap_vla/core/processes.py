"""Workers of one thread each; a cell of an experiment in a process of its own, which never outlives its parent."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import math
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, current_process, get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gap_vla.core.errors import INTERRUPTED, UserError
from gap_vla.core.lazy import start_quietly

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")


_STARTING = [threading.RLock()]
"""Held while the environment and `__main__` are as new processes are to find them; both are the whole program's. A
forked child, in which nobody may be left to give it back, has another."""
os.register_at_fork(after_in_child=lambda: _STARTING.__setitem__(0, threading.RLock()))


@contextlib.contextmanager
def starting_workers(*, one_thread: bool = True) -> Iterator[None]:
    """Processes started inside do not hear a terminal's Ctrl-C: their parent, which does, decides what ends and how.

    Args:
        one_thread: they also use one thread each for BLAS, torch and software OpenGL, which they read when they start.
            Several processes with several threads each are slower than with one each.

    Raises:
        UserError: this process itself may start none.
    """
    if current_process().daemon:
        raise UserError("a worker of multiprocessing.Pool may start no processes; use ProcessPoolExecutor in its place")
    with _STARTING[0]:
        yield from _changed(one_thread)


def _changed(one_thread: bool) -> Iterator[None]:
    main = sys.modules["__main__"]
    place = vars(main).get("__file__")
    if place and not os.path.isfile(place):  # `python - < program`: they would look for a file <stdin>
        del main.__file__
    changed = (*(_ONE_THREAD if one_thread else ()), "PYTHONSAFEPATH")  # else ./threading.py is Python's `threading`
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(dict.fromkeys(changed, "1"))
    resource_tracker.ensure_running()  # else the first worker starts it, which makes this thread hear Ctrl-C again
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it from its first moment
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        if place:
            main.__file__ = place
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def spawned(work: Callable[..., Any], *arguments: Any, name: str | None = None) -> Any:
    """Starts a process that calls `work` and hears no Ctrl-C. It ends with its parent (on Linux with the thread that
    calls this), also in the middle of something long."""
    context = get_context("spawn")
    process = context.Process(target=_spawned, args=(os.getpid(), work, arguments), daemon=True, name=name)
    with starting_workers():
        process.start()
    return process


def _spawned(parent: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    _end_with(parent)
    work(*arguments)


def parts(limit: float) -> Iterator[float]:
    """Seconds of waits that are `limit` together. A process that is stopped (Ctrl-Z, a suspended container) loses the
    one that it was in; one wait would be over when it goes on, though the answer has come."""
    number = max(10, math.ceil(limit))
    return itertools.repeat(limit / number, number)


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned workers; after Ctrl-C or an error they finish what they are at, and no more. Another Ctrl-C ends them.

    They end with their parent. Not forked: a fork of one that holds TensorFlow's, JAX's or OpenGL's threads can hang.
    Raises UserError: one ended before its work, as where memory runs out, or the system has no locks for them.
    """
    try:
        with starting_workers():
            pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (os.getpid(),))
    except OSError as error:  # of its semaphores, which are files in /dev/shm; it names none
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT):
            raise
        what = f"no locks for worker processes can be made in /dev/shm ({error.strerror})"
        raise UserError(f"{what}; make room there and the right to write, or use one worker") from None
    try:
        with starting_workers():
            for _ in range(workers):
                pool.submit(os.getpid)  # a task that finds no idle worker starts one
        yield pool
    except BrokenProcessPool:
        why = "the system ends one where memory runs out; what it said itself, if anything, stands above"
        raise UserError(f"a worker process ended before its work: {why}; use fewer workers, or repair that") from None
    finally:
        if hears := threading.current_thread() is threading.main_thread():  # no other one does
            heard = signal.signal(signal.SIGINT, _end_children)  # raised, it would leave `shutdown` half done: a hang
        pool.shutdown(cancel_futures=True)
        if hears:
            signal.signal(signal.SIGINT, heard)


def _end_children(*_: Any) -> None:
    for child in active_children():
        child.kill()


class CellProcess:
    """Calls `work(*arguments)` in a spawned process that leads a session of its own.

    Ctrl-C in a terminal therefore does not reach the cell; `interrupt` does, and lets it write its checkpoint. When the
    parent dies, however it does, the cell gets a SIGTERM.

    Args:
        work: importable by name; what it returns must pickle.
        log: the cell's output goes to the end of this file; None: to the parent's.
        one_thread: see `starting_workers`; for when several cells share the cores.

    Attributes:
        result: what `work` returned, once the cell has ended well.
        used: processor time of it and its children, and its largest memory; once it has ended well.
        error: why it did not end well; None while it runs, after a good end, and after an interruption.
        interrupted: whether it ended unfinished because it was asked to.
    """

    def __init__(
        self, work: Callable[..., Any], *arguments: Any, log: Path | None = None, one_thread: bool = False
    ) -> None:
        context = get_context("spawn")
        self._answers, theirs = context.Pipe(duplex=False)
        settings = (os.getpid(), log)
        self._process = context.Process(target=_cell, args=(theirs, settings, work, arguments))
        self.result: Any = None
        self.used: dict[str, float] = {}
        self.error: str | None = None
        self.interrupted = False
        self._asked = False
        with starting_workers(one_thread=one_thread):
            self._process.start()
        theirs.close()

    def alive(self) -> bool:
        """Whether it still runs; takes in what it has sent."""
        self._receive()
        if self._process.is_alive():
            return True
        self._process.join()
        self._receive()
        status = self._process.exitcode
        self.interrupted = status == INTERRUPTED or (self._asked and status != 0)
        if status != 0 and not self.interrupted and self.error is None:
            self.error = f"killed by signal {-status}" if status and status < 0 else f"exit status {status}"
        return False

    def wait(self) -> None:
        """Until the cell ends. Ctrl-C is passed on to it, and raised here when it has ended."""
        asked, runs = False, True
        while runs:
            try:
                if runs := self.alive():
                    self._process.join(0.2)
            except KeyboardInterrupt:
                asked = True
                self.interrupt()
        if asked:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Asks it to write its checkpoint and end."""
        if self._process.is_alive():
            self._asked = True
            os.kill(self._process.pid or 0, signal.SIGINT)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self._answers.poll():
                what, value = self._answers.recv()
                setattr(self, what, value)


def _begin(parent: int) -> None:
    start_quietly()
    _end_with(parent)


def _end_with(parent: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it could be watched
            raise SystemExit(1)


def _cell(answers: Connection, settings: tuple[int, Path | None], work: Callable, arguments: tuple) -> None:
    parent, log = settings
    _begin(parent)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in a shell's background start deaf to `interrupt`
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
    try:
        answers.send(("result", work(*arguments)))
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
        used = {"cpu_seconds": round(cpu, 1), "peak_gigabytes": round(own.ru_maxrss / 2**20, 2)}
        answers.send(("used", used))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if not isinstance(error, UserError | OSError):
            traceback.print_exc()
        answers.send(("error", f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from None
