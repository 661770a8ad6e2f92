"""Where arrays lie when several devices, of one or several hosts, train together.

Batches are cut along both axes of the mesh, `data` and `fsdp`; parameters and optimizer state along `fsdp` alone. The
gradient's sum over devices is the compiler's work.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gap_vla.core.errors import ConfigError

SMALLEST_CUT = 4096
"""Leaves with fewer entries are repeated on every device: fetching them would cost more than they weigh."""


def make_mesh(fsdp: int = 1, batch_size: int | None = None) -> Mesh:
    """All devices of all hosts as (data, fsdp).

    Raises:
        ConfigError: the number of devices is not a multiple of `fsdp`, or the batch not one of the number of devices.
    """
    count = jax.device_count()
    if count % fsdp:
        raise ConfigError(f"train.fsdp is {fsdp}, which does not divide the {count} devices")
    if batch_size is not None and batch_size % count:
        raise ConfigError(
            f"train.batch_size / train.accumulate is {batch_size}; it must be a multiple of the {count} devices"
        )
    return Mesh(np.array(jax.devices()).reshape(-1, fsdp), ("data", "fsdp"))


def state_shardings(mesh: Mesh, state: Any, smallest: int = SMALLEST_CUT) -> Any:
    """The sharding of every leaf: its longest axis that `fsdp` divides is cut, from `smallest` entries on."""
    parts = mesh.shape["fsdp"]

    def of(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or int(np.prod(leaf.shape)) < smallest:
            return NamedSharding(mesh, PartitionSpec())
        cut = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * cut, "fsdp"))

    return jax.tree_util.tree_map(of, state)


def place_state(state: Any, shardings: Any) -> Any:
    """Puts a state that every host holds whole onto the mesh."""
    return jax.tree_util.tree_map(_place, state, shardings)


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts a batch that every host holds whole onto the mesh, each device its samples."""
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return jax.tree_util.tree_map(lambda leaf: _place(leaf, split), batch)


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def gather(mesh: Mesh, tree: Any) -> Any:
    """The whole tree as numpy arrays on every host."""
    if jax.process_count() > 1:
        tree = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    return jax.device_get(tree)
