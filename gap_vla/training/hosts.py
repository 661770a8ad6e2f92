"""Several hosts: every one runs the same command, with its place in the environment.

    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 gap-vla finetune …   # on host0
    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 gap-vla finetune …   # on host1

All see the same folders. Each reads whole batches and keeps its devices' samples, so that the result does not depend on
how many there are; the first writes metrics and the exported model, all write their part of a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from gap_vla.core.errors import ConfigError
from gap_vla.core.identity import digest

_joined = False


def join_hosts() -> bool:
    """Joins the hosts that the environment names, before the first array is made; False if it names none."""
    global _joined
    if address := os.environ.get("JAX_COORDINATOR_ADDRESS"):
        import jax

        _joined = True
        if not jax.distributed.is_initialized():
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
            place: dict[str, Any] = {key: int(os.environ[name]) for key, name in names.items() if name in os.environ}
            jax.distributed.initialize(address, **place)
    return _joined


def is_first_host() -> bool:
    """Whether this process writes what only one may write."""
    if not _joined:
        return True
    import jax

    return jax.process_index() == 0


def any_host(asked: bool, meeting: bool = True) -> bool:
    """Whether a host asks. Several hosts all come here at the same step, and wait for each other if it is a meeting."""
    return (meeting and any(_of_all(asked))) if _joined else asked


def require_same_command(name: str, config: Mapping[str, Any]) -> None:
    """Raises ConfigError on every host if one of them has another run's name or configuration."""
    if _joined and len({*_of_all(int(digest({"name": name, **config})[:7], 16))}) > 1:
        raise ConfigError("the hosts differ in configuration or --run-name; give all of them the same command")


def _of_all(value: int) -> list[int]:
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    return np.ravel(process_allgather(np.int32(value))).tolist()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """All hosts leave when all are here; raises ConfigError on each where another one has failed inside."""
    failed = 1
    try:
        yield
        failed = 0
    finally:
        elsewhere = _joined and any(_of_all(failed))
    if elsewhere:
        raise ConfigError("another host stopped, and has printed why; put that right, and start all of them again")


@contextlib.contextmanager
def first_host_first() -> Iterator[None]:
    """The others enter when the first host has left: for folders that the first one makes and all read."""
    for first in (True, False):
        with together():
            if is_first_host() == first:
                yield
