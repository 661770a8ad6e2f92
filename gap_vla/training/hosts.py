"""Several hosts: every one runs the same command, with its place in the environment.

    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 gap-vla finetune …   # on host0
    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 gap-vla finetune …   # on host1

All hosts see the same folders. Each reads whole batches and keeps its devices' samples, so that the result does not
depend on how many there are; the first writes metrics and the exported model, all write their part of a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from gap_vla.core.typed_config import ConfigError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

_joined = False


def join_hosts() -> bool:
    """Joins the hosts named in the environment, before the first array is made; False if there are none.

    Raises:
        ConfigError: only some of the three variables are set.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if not given:
        return False
    if len(given) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in given)
        raise ConfigError(f"training on several hosts needs {', '.join(VARIABLES)}; {missing} is not set")
    import jax

    address, count, number = (os.environ[name] for name in VARIABLES)
    if not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, int(count), int(number))
    global _joined
    _joined = True
    return True


def is_first_host() -> bool:
    """Whether this process writes what only one may write."""
    if not _joined:
        return True
    import jax

    return jax.process_index() == 0


@contextlib.contextmanager
def first_host_first() -> Iterator[None]:
    """The others enter when the first host has left: for folders that the first one makes and all read."""
    first = is_first_host()
    if not first:
        _meet()
    yield
    if first:
        _meet()


def _meet() -> None:
    if _joined:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("gap_vla: the first host is done")
