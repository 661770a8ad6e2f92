"""Worker processes of one thread each, which end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from gap_vla.core.errors import UserError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread each for BLAS, torch and software OpenGL.

    Several processes with several threads each are slower than with one each.
    """
    changed = (*_ONE_THREAD, "PYTHONSAFEPATH")  # else ./threading.py is Python's `threading`
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(dict.fromkeys(changed, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned workers; after Ctrl-C or an error they finish what they are at, and no more.

    They are not forked: a fork of a process with TensorFlow's, JAX's or OpenGL's threads can hang.
    """
    with one_thread_each():
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (os.getpid(),))
        for _ in range(workers):
            pool.submit(os.getpid)  # a task that finds no idle worker starts one
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "a worker process ended before its work, perhaps for want of memory; use fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def spawned(work: Callable[..., Any], *arguments: Any, name: str | None = None) -> Any:
    """Starts a process that calls `work` with one thread; it hears no Ctrl-C, and ends with its parent."""
    process = get_context("spawn").Process(target=_call, args=(os.getpid(), work, arguments), daemon=True, name=name)
    with one_thread_each():
        process.start()
    return process


def _call(parent: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    _begin(parent)
    work(*arguments)


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it could be watched
            sys.exit(1)
