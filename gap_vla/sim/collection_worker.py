"""The process that plays demonstrations: one environment for its whole life, one attempt after the other."""

from __future__ import annotations

import contextlib
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.whole import replacing

KEPT, FAILED, REFUSED, CRASHED = "kept", "failed", "refused", "crashed"


def part_name(attempt: int) -> str:
    """File of a kept attempt."""
    return f"attempt_{attempt:06d}.hdf5"


def work(
    connection: Connection, task: str, env_kwargs: dict[str, Any], action_noise: float, folder: Path, made: str
) -> None:
    """Receives (attempt, seed), answers (attempt, outcome, steps); ends with its parent or on None.

    What it leaves of each attempt in `folder` tells the digest of the settings, `made`.

    What ends it before that is answered instead of the steps: as REFUSED what the user can put right, on one line; as
    CRASHED the traceback of anything else.
    """
    with contextlib.suppress(ConnectionError):  # the parent has gone
        try:
            from gap_vla.sim.demonstration import demonstrate
            from gap_vla.sim.environment import make
            from gap_vla.sim.recording import write_demonstration

            env = make(task, **env_kwargs)
            while (order := connection.recv()) is not None:
                attempt, seed = order
                demo = demonstrate(env, seed, action_noise)
                if demo.success:
                    write_demonstration(folder / part_name(attempt), demo, made)
                else:
                    with replacing(folder / f"attempt_{attempt:06d}.failed") as temporary:
                        temporary.write_text(made)
                connection.send((attempt, KEPT if demo.success else FAILED, len(demo)))
            env.close()
        except (UserError, OSError, MemoryError) as error:
            connection.send((-1, REFUSED, message_of(error)))
        except Exception:
            connection.send((-1, CRASHED, traceback.format_exc()))
