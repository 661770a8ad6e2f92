"""How parameters lie: as a few long vectors, so that the optimizer is one short program instead of one per leaf.

Leaves are packed by branch and by whether weight decay applies, the only two things by which the optimizer tells them
apart; a large one is a vector of its own, because copying its gradient takes longer than handing over one more array:

    {"vision/kernel": float32[n], "vision/rest": …, "proprio/kernel": …, "proprio/rest": …, "shared/kernel": …, …}

AdamW, clipping and GAP's λ act element by element (clipping through the norm of everything), so the result is that of
the tree up to the order of summation.

Where several devices train together, vectors and optimizer state are cut along the axis `fsdp` of their mesh, and
batches along `data` and `fsdp`. The gradient's sum over devices is the compiler's work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gap_vla.core.errors import ConfigError

LARGE = 2**17
"""Numbers from which a leaf is a vector of its own."""

SMALLEST_CUT = 4096
"""Leaves with fewer entries are repeated on every device: fetching them would cost more than they weigh."""


def branch_of(path: str, group: Mapping[str, Any]) -> str:
    """Which branch a parameter belongs to: `proprio` (GAP's group), `vision` (image tokenizers), or `shared`."""
    if path in group:
        return "proprio"
    owner = path.split("/")[1] if path.startswith("octo_transformer/") else ""
    is_task = owner.startswith(("task_", "readout_", "BlockTransformer"))
    return "vision" if owner.startswith("ob") and not is_task else "shared"


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where every leaf of one tree lies in the vectors.

    Args:
        shapes: '/'-joined path to shape, sorted: the order in the vectors.
        group: GAP's leaves (`match_group`).
        multiple: every vector is padded with zeros to a multiple of this, so that a mesh axis of that size divides it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    group: Mapping[str, Any]
    multiple: int = 1

    @classmethod
    def of(cls, params: Any, group: Mapping[str, Any], multiple: int = 1) -> Packing:
        """The packing of a tree of arrays or of their shapes."""
        flat = traverse_util.flatten_dict(dict(params), sep="/")
        return cls({path: tuple(flat[path].shape) for path in sorted(flat)}, group, multiple)

    def label(self, path: str) -> str:
        """The vector that a leaf is part of."""
        label = f"{branch_of(path, self.group)}/{'kernel' if 'kernel' in path else 'rest'}"
        return f"{label}/{path}" if math.prod(self.shapes[path]) >= LARGE else label

    @property
    def paths(self) -> dict[str, list[str]]:
        """The leaves of every vector, in order."""
        found: dict[str, list[str]] = {}
        for path in self.shapes:
            found.setdefault(self.label(path), []).append(path)
        return found

    @property
    def group_labels(self) -> dict[str, tuple[int, ...]]:
        """The vectors that hold GAP's leaves and nothing else: what `scale_group_updates` takes."""
        return {label: (len(paths),) for label, paths in self.paths.items() if label.startswith("proprio/")}

    def pack(self, tree: Any) -> dict[str, jax.Array]:
        """The vectors of a tree."""
        flat = traverse_util.flatten_dict(dict(tree), sep="/")
        packed = {}
        for label, paths in self.paths.items():
            vector = jnp.concatenate([jnp.ravel(flat[path]) for path in paths])
            missing = -len(vector) % self.multiple
            packed[label] = jnp.pad(vector, (0, missing)) if missing else vector
        return packed

    def unpack(self, packed: Mapping[str, jax.Array]) -> dict[str, Any]:
        """The tree of the vectors."""
        flat = {}
        for label, paths in self.paths.items():
            start = 0
            for path in paths:
                size = int(np.prod(self.shapes[path]))
                flat[path] = jax.lax.slice(packed[label], (start,), (start + size,)).reshape(self.shapes[path])
                start += size
        return traverse_util.unflatten_dict(flat, sep="/")


def make_mesh(fsdp: int = 1, batch_size: int | None = None) -> Mesh:
    """All devices of this machine as (data, fsdp).

    Raises:
        ConfigError: the number of devices is not a multiple of `fsdp`, or the batch not one of the number of devices.
    """
    count = jax.device_count()
    if count % fsdp or (batch_size or 0) % count:
        raise ConfigError(
            f"there are {count} devices: train.fsdp ({fsdp}) must divide their number, and their number must divide "
            f"train.batch_size ({batch_size})"
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


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts a batch onto the mesh, each device its samples."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
