"""Several hosts: every one runs the same command, with its place in the environment.

    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 gap-vla finetune …   # on host0
    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 gap-vla finetune …   # on host1

All see the same folders. Each reads whole batches and keeps its devices' samples, so that the result does not depend on
how many there are; the first writes metrics and the exported model, all write their part of a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gap_vla.core.foreign import shown
from gap_vla.core.identity import digest
from gap_vla.core.typed_config import ConfigError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

_joined = False


def place_among_hosts() -> tuple[str, int, int] | None:
    """The first host's address, how many hosts there are, and which of them this is; None if it is the only one.

    Raises:
        ConfigError: only some of the three variables are set, or what they say is no address or no place.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if not given:
        return None
    if len(given) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in given)
        raise ConfigError(f"training on several hosts needs {', '.join(VARIABLES)}; {missing} is not set")
    address, *places = (os.environ[name] for name in VARIABLES)
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise ConfigError(f"{VARIABLES[0]} is {shown(address)}; name the first host and a port: host0:1234")
    for name, text in zip(VARIABLES[1:], places):
        if not re.fullmatch("[0-9]{1,6}", text):
            raise ConfigError(f"{name} is {shown(text)}; it must be a whole number")
    count, number = map(int, places)
    if not 0 <= number < count:
        raise ConfigError(
            f"{VARIABLES[2]} is {number} and {VARIABLES[1]} {count}; hosts are numbered from 0 to one less than their "
            "number"
        )
    return address, count, number


def join_hosts() -> bool:
    """Joins the hosts of `place_among_hosts`, before the first array is made; False if there are none."""
    place = place_among_hosts()
    if place is None:
        return False
    import jax

    if not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(*place)
    global _joined
    _joined = True
    return True


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
    """The others enter when the first host has left: for folders that the first one makes and all read. What one of
    them refuses ends all."""
    for first in (True, False):
        with together():
            if is_first_host() == first:
                yield
