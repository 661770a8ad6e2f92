"""What reaches each branch of the model: gradient norms and update/parameter ratios, also split by ρ.

Everything works on packed vectors (`gap_vla.training.packing`), whose names begin with their branch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gap_vla.training.packing import branch_norms


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
    done = optax.tree_utils.tree_get(opt_state, "count", filtering=_of_adam)
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


def _of_adam(path: Any, _: Any) -> bool:
    return any(getattr(key, "tuple_name", "") == "ScaleByAdamState" for key in path)
