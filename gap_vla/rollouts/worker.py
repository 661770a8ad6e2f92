"""The simulator process: holds environments, obeys one command at a time, knows nothing of policies.

It is spawned, never forked, and makes its renderers itself: a forked child of a process that has made a GL
context hangs for ever. It ends when its parent does (the pipe closes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import signal
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gap_vla.rollouts.policy import EXPERT_ACTION
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
    simulation_seconds: float
    rendering_seconds: float


@dataclasses.dataclass(frozen=True)
class Crash:
    """The simulator raised; `traceback` is the worker's."""

    slot: int
    message: str
    traceback: str


class Privilege(enum.Enum):
    """What the simulator's full state is used for."""

    NONE = "none"
    # A watcher names the phase; if it cannot cope with where a policy has led, it is left out from there on.
    PHASES = "phases"
    # The expert's actions are executed: if it fails, the episode fails.
    ACTIONS = "actions"


class _Slot:
    """One environment, and who looks at its full state."""

    def __init__(self, task: Task, privilege: Privilege) -> None:
        self._task, self._privilege = task, privilege
        self._env: Any = None
        self._expert: ActingExpert | None = None
        self._watcher: Watcher | None = None
        self._phase: str | None = None

    def reset(self, command: Reset) -> Frame:
        started = time.perf_counter()
        if self._env is None:
            self._env = self._task.make()
        observation, info = self._env.reset(seed=command.layout_seed)
        self._phase = self._expert = self._watcher = None
        if self._privilege is Privilege.ACTIONS:
            self._expert = self._task.make_expert(self._env, seed=command.layout_seed)
        elif self._privilege is Privilege.PHASES:
            self._watcher = self._task.make_watcher(self._env)
        return self._frame(command.slot, observation, info, False, started)

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
        observation = dict(observation)
        if self._expert is not None:
            observation[EXPERT_ACTION] = np.asarray(self._expert.act(), np.float32)
            self._phase = self._expert.phase
        elif self._watcher is not None:
            try:
                self._phase = self._watcher.look()
            except Exception:
                self._watcher = None
        rendering = float(info.get("render_seconds", 0.0))
        success = bool(info.get("success", False))
        elapsed = time.perf_counter() - started
        return Frame(
            slot, observation, ended or success, success, self._phase, max(elapsed - rendering, 0.0), rendering
        )


def serve(connection: Connection, task: Task, privilege: Privilege) -> None:
    """Answers every `Reset` and `Step` with a `Frame` or a `Crash`, in order, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what ends
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
        return Crash(command.slot, f"{type(error).__name__}: {error}", traceback.format_exc())
