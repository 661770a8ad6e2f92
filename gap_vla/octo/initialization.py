"""Fresh parameters of a module: their shapes, all of them, or only those that nothing pretrained replaces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from gap_vla.octo.merge import MergeAccount, merge_params
from gap_vla.octo.module import OctoModule


def parameter_shapes(module: OctoModule, example_batch: Mapping[str, Any]) -> Any:
    """The tree of parameters that `module` has for such a batch, as shapes; nothing is computed."""
    return jax.eval_shape(lambda rng: _initialize(module, _one(example_batch), rng), jax.random.PRNGKey(0))


def initialize(
    module: OctoModule, example_batch: Mapping[str, Any], rng: jax.Array, only: Collection[str] | None = None
) -> Any:
    """The parameters, or a dictionary of those whose '/'-joined path is in `only`, with the same values."""
    example = _one(example_batch)

    def run(rng: jax.Array) -> Any:
        params = _initialize(module, example, rng)
        if only is None:
            return params
        return {path: leaf for path, leaf in traverse_util.flatten_dict(params, sep="/").items() if path in only}

    # This code runs once: on a CPU the compiler's optimizations would cost more than they save.
    options: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(run).lower(rng).compile(options)(rng)


def initialize_around(
    module: OctoModule, example_batch: Mapping[str, Any], rng: jax.Array, pretrained: Mapping[str, Any]
) -> tuple[dict[str, Any], MergeAccount]:
    """`merge_params(initialize(...), pretrained)`, computing only what stays fresh: a T5 is not drawn in vain."""
    merged, account = merge_params(parameter_shapes(module, example_batch), pretrained)
    flat = traverse_util.flatten_dict(merged, sep="/")
    if account.fresh:
        flat |= initialize(module, example_batch, rng, only=frozenset(account.fresh))
    return traverse_util.unflatten_dict(flat, sep="/"), account


def _one(example_batch: Mapping[str, Any]) -> dict[str, Any]:
    parts = {key: example_batch[key] for key in ("observation", "task")}
    return jax.tree.map(lambda leaf: np.asarray(leaf[:1]), parts)


def _initialize(module: OctoModule, example: Mapping[str, Any], rng: jax.Array) -> Any:
    params_key, dropout_key = jax.random.split(rng)
    observation = example["observation"]
    rngs = {"params": params_key, "dropout": dropout_key}
    return module.init(rngs, observation, example["task"], observation["timestep_pad_mask"], train=False)["params"]
