"""Runs commands fast: a process that has imported the heavy packages forks once for every call.

    python runner.py            # reads one JSON object a line: {"argv", "cwd", …}, answers with one

A forked call has an interpreter of its own (flags, caches, exit handlers), a time limit and, if asked for, a limit on
the size of files (what a full disk looks like to a program) or a moment at which it is interrupted (once).
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import json
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEAVY = (
    "gap_vla.core.lazy h5py numpy pyarrow PIL.Image imageio ml_collections tensorflow tensorflow_datasets torch "
    "torch._dynamo jax flax optax numba matplotlib.pyplot websockets gap_vla.demos gap_vla.rlds.annotate "
    "gap_vla.phases gap_vla.rlds.convert gap_vla.rlds.checking.run gap_vla.rollouts.octo_policy gap_vla.training.run "
    "gap_vla.training.octo_trainer"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call did; its status is negative for the signal that ended it, None after the time limit."""

    status: int | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def traceback(self) -> bool:
        """Whether one was shown; Python's note on what it ignored in a library's callback is none."""
        return bool(re.search(r"(?<!\n)Traceback \(most|(?<!>)\nTraceback \(most", self.stderr))


class Runner:
    """A warm process; `run` gives it a call and waits."""

    def __init__(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "JAX_PLATFORMS": "cpu",
            "OMP_NUM_THREADS": "1",
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),  # else finetune restarts
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, cwd=ROOT,
        )  # fmt: skip

    def run(
        self,
        command: str | Path,
        arguments: list[str],
        cwd: Path,
        *,
        limit: float = 300,
        interrupt_in: str | None = None,
        file_bytes: int | None = None,
    ) -> Outcome:
        """Runs `scripts/COMMAND.py ARGUMENTS`, or a file given as a path, in `cwd`; stdout and stderr lie in `.stdout`
        and `.stderr` there.

        Ctrl-C is pressed in the first function of module `interrupt_in` that is called,
        which is the same moment on every machine.
        """
        script = command if isinstance(command, Path) else ROOT / "scripts" / f"{command}.py"
        call: dict[str, Any] = {"argv": [str(script), *arguments], "cwd": str(cwd), "limit": limit}
        call |= {"interrupt_in": interrupt_in, "file_bytes": file_bytes}
        for name in (".stdout", ".stderr"):
            (cwd / name).touch()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        texts = [(cwd / name).read_text(errors="replace") for name in (".stdout", ".stderr")]
        return Outcome(answer["status"], *texts, answer["seconds"])

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


def serve() -> None:
    """Answers calls until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the imports print is no answer
    warm_up()
    for line in sys.stdin:
        answers.write(json.dumps(_supervise(json.loads(line))) + "\n")
        answers.flush()


def warm_up() -> None:
    """Loads what takes most commands long, so that no call does."""
    for name in HEAVY.split():
        importlib.import_module(name)
    import numpy
    import PIL.Image

    import gap_vla.phases

    PIL.Image.init()
    gap_vla.phases.segment(numpy.zeros((9, 3)), penalty=1.0)  # numba's compiled search
    gc.freeze()  # else the first collection in a forked process copies every page


def _supervise(call: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the call is under way
    child = os.fork()
    if child == 0:
        _become(call)
    end = started + call["limit"]
    status: int | None = None
    while True:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            break
        now = time.monotonic()
        if now > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.005)
    return {"status": status, "seconds": round(time.monotonic() - started, 3)}


def _interrupt_in(module: str, frame: types.FrameType, event: str, _: Any) -> None:
    name, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
    if event == "call" and name.startswith(module) and function != "<module>":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGINT)


def _become(call: dict[str, Any]) -> None:
    """Turns the forked process into the command; never returns."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(call["cwd"])
    for name, number in ((os.devnull, 0), (".stdout", 1), (".stderr", 2)):
        os.dup2(os.open(name, (os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 0o644), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    if call["file_bytes"] is not None:
        sys.dont_write_bytecode = True  # Python 3.11 would keep what it could not write whole, for every later call
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        resource.setrlimit(resource.RLIMIT_FSIZE, (call["file_bytes"], call["file_bytes"]))
    sys.argv = call["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    code = 70
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if call["interrupt_in"] is not None:
            sys.setprofile(functools.partial(_interrupt_in, call["interrupt_in"]))
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        code = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
