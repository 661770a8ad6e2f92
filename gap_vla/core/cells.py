"""Leaves when the queue and the comparison have left it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gap_vla.core.errors import INTERRUPTED, UserError
from gap_vla.core.processes import _begin, one_thread_each


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
        with one_thread_each() if one_thread else contextlib.nullcontext():
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
