"""Parameter-shaped trees as a few long vectors, so that the optimizer is one short program instead of one per leaf.

Leaves are packed by branch and by whether weight decay applies, the only two things by which the optimizer tells them
apart; a large one is a vector of its own, because copying its gradient takes longer than handing over one more array:

    {"vision/kernel": float32[n], "vision/rest": …, "proprio/kernel": …, "proprio/rest": …, "shared/kernel": …, …}

AdamW, clipping and GAP's λ act element by element (clipping through the norm of everything), so the result is that of
the tree up to the order of summation. What reaches each branch of the model is measured on its vectors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

LARGE = 2**17
"""Numbers from which a leaf is a vector of its own."""


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


def branch_norms(packed: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """L2 norm of packed vectors, by branch."""
    squares: dict[str, jax.Array] = {}
    for label, vector in packed.items():
        branch = label.split("/")[0]
        squares[branch] = squares.get(branch, jnp.zeros([])) + jnp.sum(jnp.square(vector.astype(jnp.float32)))
    return {branch: jnp.sqrt(total) for branch, total in squares.items()}


@dataclasses.dataclass(frozen=True)
class Adam:
    """What `split_measurements` must know of the optimizer, as in `gap_vla.octo.create_optimizer`.

    Attributes:
        learning_rate: number of updates done to the rate of the next.
        clip: global norm that gradients are clipped to before, or None.
    """

    learning_rate: Callable[[Any], Any]
    clip: float | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


def branch_measurements(gradients: Any, updates: Any, params: Any) -> dict[str, jax.Array]:
    """`grad_norm/<branch>`, and `update_ratio/<branch>`: |update| / |parameters|."""
    sizes, changes = branch_norms(params), branch_norms(updates)
    found = {f"grad_norm/{branch}": norm for branch, norm in branch_norms(gradients).items()}
    return found | {f"update_ratio/{b}": changes[b] / jnp.maximum(size, 1e-12) for b, size in sizes.items()}


def split_measurements(
    gradients: Mapping[str, jax.Array],
    transition: Mapping[str, jax.Array],
    share: jax.Array,
    opt_state: Any,
    params: Mapping[str, jax.Array],
    update_factor: jax.Array,
    adam: Adam,
) -> dict[str, jax.Array]:
    """The parts of `grad_norm/<branch>` and `update_ratio/<branch>` due to transitions and to the other window steps.

    The loss is a mean over action entries, so its gradient is a sum of two: `share` times the mean gradient over the
    transitions' entries, and the rest. Adam's update is linear in the newest gradient once its second moment v is
    given; a part g therefore adds η (1 - b1) / (1 - b1^t) · g / (sqrt(v / (1 - b2^t)) + eps) to the update, times GAP's
    λ on the proprioceptive branch. `update_ratio/<branch>/<part>` is the norm of that relative to the parameters';
    unlike `update_ratio/<branch>` it leaves out what momentum remembers, and weight decay.

    Args:
        transition: mean gradient over entries with high ρ.
        share: of these entries among all.
        opt_state: before this update.
        update_factor: λ.

    Returns:
        `grad_norm/<branch>/<part>`, `update_ratio/<branch>/<part>` for the parts `transition` and `consistent`, and
        `rho/transition_share`.
    """
    high = {label: share * vector for label, vector in transition.items()}
    low = {label: gradients[label] - vector for label, vector in high.items()}
    sizes = branch_norms(params)
    clipped = jnp.ones([])
    if adam.clip is not None:
        clipped = jnp.minimum(1.0, adam.clip / jnp.maximum(optax.global_norm(gradients), 1e-12))
    second = optax.tree_utils.tree_get(opt_state, "nu")
    done = optax.tree_utils.tree_get(
        opt_state, "count", filtering=lambda path, _: "ScaleByAdamState" in [getattr(k, "tuple_name", "") for k in path]
    )
    rate = adam.learning_rate(done) * (1 - adam.b1) / (1 - adam.b1 ** (done + 1.0))
    found = {"rho/transition_share": share}
    for part, vectors in (("transition", high), ("consistent", low)):
        directions = {}
        for label, gradient in vectors.items():
            newest = jnp.square(clipped * gradients[label])
            v = (adam.b2 * second[label] + (1 - adam.b2) * newest) / (1 - adam.b2 ** (done + 1.0))
            scale = update_factor if label.startswith("proprio/") else 1.0
            directions[label] = scale * rate * clipped * gradient / (jnp.sqrt(v) + adam.eps)
        changes = branch_norms(directions)
        for branch, norm in branch_norms(vectors).items():
            found[f"grad_norm/{branch}/{part}"] = norm
            found[f"update_ratio/{branch}/{part}"] = changes[branch] / jnp.maximum(sizes[branch], 1e-12)
    return found
