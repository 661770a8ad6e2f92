"""Plays the attempts of a collection in processes with one simulator each, and leaves a file of every one."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.processes import parts, spawned
from gap_vla.core.progress import Progress
from gap_vla.core.whole import replacing
from gap_vla.sim.demonstration import demonstrate
from gap_vla.sim.environment import make
from gap_vla.sim.recording import write_demonstration

_PATIENCE = 900.0
"""Seconds without any finished episode after which a collection gives up."""

KEPT, FAILED, REFUSED, CRASHED = "kept", "failed", "refused", "crashed"


class CollectionError(UserError, RuntimeError):
    """Demonstrations could not be collected; the message says why and what to do."""


def stopped(why: str, folder: Path) -> CollectionError:
    kept = f"finished episodes are kept in {folder}, and " if finished(folder) else ""
    again = "the same command continues once this is put right (free space, if the disk is full)"
    return CollectionError(f"{why}; {kept}{again}")


def piece(folder: Path, attempt: int, outcome: str) -> Path:
    """What a finished attempt leaves."""
    return folder / f"attempt_{attempt:06d}.{'hdf5' if outcome == KEPT else 'failed'}"


def finished(folder: Path) -> dict[int, str]:
    """Outcome of every attempt that an earlier call finished."""
    return {
        int(path.stem.split("_")[1]): KEPT if path.suffix == ".hdf5" else FAILED for path in folder.glob("attempt_*")
    }


def play(
    n: int,
    seed: int,
    workers: int,
    arguments: tuple[str, dict[str, Any], float, Path, str],
    done: dict[int, str],
    progress: bool,
) -> None:
    """Plays attempts in order until `n` are kept; fills `done`. The arguments are those of `_work`.

    No attempt is begun that could turn out superfluous, so that the kept ones are the first `n` in any case.
    """
    task, env_kwargs, action_noise, folder, _ = arguments
    start, steps = time.perf_counter(), 0

    def kept_by_now() -> int:
        """Of the attempts before the first that is not finished."""
        return sum(done[attempt] == KEPT for attempt in itertools.takewhile(done.__contains__, itertools.count()))

    if (kept := kept_by_now()) >= n:
        return
    shown = Progress(task, n, "demonstration", done=kept, out=sys.stderr, quiet=not progress)
    with _workers(workers, arguments) as pool:
        idle = list(pool)
        busy: dict[Any, int] = {}
        while kept < n:
            while idle:
                attempt = next(a for a in itertools.count() if a not in done and a not in busy.values())
                if attempt - sum(outcome == FAILED for other, outcome in done.items() if other < attempt) >= n:
                    break
                connection = idle.pop()
                with _alive(attempt):
                    connection.send((attempt, seed_of(seed, attempt)))
                busy[connection] = attempt
            ready: list[Any] = next(filter(None, (wait(list(busy), part) for part in parts(_PATIENCE))), [])
            if not ready:
                raise CollectionError(
                    f"{task}: no worker finished an episode within {_PATIENCE:.0f} s (a hanging OpenGL driver gives no "
                    "error); make the same call again to continue, with fewer workers if the machine is busy"
                )
            for connection in ready:
                with _alive(busy[connection]):
                    number, outcome, detail = connection.recv()
                if outcome == REFUSED:
                    raise stopped(detail, folder)
                if outcome == CRASHED:
                    raise CollectionError(f"{task}: a worker failed; finished episodes are in {folder}.\n{detail}")
                del busy[connection]
                idle.append(connection)
                done[number] = outcome
                steps += detail
            kept, failures = kept_by_now(), sum(outcome == FAILED for outcome in done.values())
            if failures >= 20 and failures > 9 * (len(done) - failures):
                raise CollectionError(
                    f"{task}: the expert failed in {failures} of {len(done)} attempts (action_noise={action_noise}, "
                    f"{env_kwargs['variant']}); use less noise or another variant"
                )
            rate = steps / (time.perf_counter() - start)
            shown.update(kept, f"{failures} failed and not kept, {rate:.0f} steps/s")


def seed_of(seed: int, attempt: int) -> int:
    """Of an attempt's layout, far from the small numbers that evaluations count through."""
    return int(np.random.SeedSequence((seed, attempt)).generate_state(1)[0])


@contextlib.contextmanager
def _alive(attempt: int) -> Iterator[None]:
    """What a pipe raises whose other end has died becomes a CollectionError."""
    try:
        yield
    except (EOFError, OSError):
        raise CollectionError(
            f"a worker died during attempt {attempt} (killed, out of memory, or started by a script that calls outside "
            "of `if __name__ == '__main__'`); make the same call again to continue"
        ) from None


@contextlib.contextmanager
def _workers(n: int, arguments: tuple[Any, ...]) -> Iterator[list[Any]]:
    """Starts `n` processes and gives the connections to them; none is left when the block ends, however it ends."""
    processes, connections = [], []
    try:
        for _ in range(n):
            ours, theirs = Pipe()
            processes.append(spawned(_work, theirs, *arguments))  # a fork after an OpenGL context exists would hang
            theirs.close()
            connections.append(ours)
        yield connections
        for connection in connections:
            with contextlib.suppress(OSError):  # it has ended; what it played is there
                connection.send(None)
        for process in processes:
            process.join(timeout=10.0)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(
    connection: Connection, task: str, env_kwargs: dict[str, Any], action_noise: float, folder: Path, made: str
) -> None:
    """Plays in a process of its own: receives (attempt, seed), answers (attempt, outcome, steps); ends on None.

    What it leaves of each attempt in `folder` tells the digest of the settings, `made`. What ends it before that is
    answered instead of the steps: as REFUSED what the user can put right, on one line; as CRASHED the traceback of
    anything else.
    """
    with contextlib.suppress(ConnectionError):  # the parent has gone
        try:
            env = make(task, **env_kwargs)
            while (order := connection.recv()) is not None:
                attempt, seed = order
                demo = demonstrate(env, seed, action_noise)
                if demo.success:
                    write_demonstration(piece(folder, attempt, KEPT), demo, made)
                else:
                    with replacing(piece(folder, attempt, FAILED)) as temporary:
                        temporary.write_text(f"{made} {temporary.stem}")
                connection.send((attempt, KEPT if demo.success else FAILED, len(demo)))
            env.close()
        except (UserError, OSError, MemoryError) as error:
            connection.send((-1, REFUSED, message_of(error)))
        except Exception:
            connection.send((-1, CRASHED, traceback.format_exc()))
