"""Run a stack of equal layers, unrolled or as one loop, with the same parameters under the same names.

A loop compiles one layer instead of all. The parameters keep upstream's layout, one sub-tree per layer: they are
stacked inside the compiled step, so that neither checkpoints nor optimizer states nor interceptors see a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_vla.octo.compute import Compute


def run_layers(
    parent: nn.Module,
    layer: Callable[[str | None], Any],
    names: Sequence[str],
    x: jax.Array,
    inputs: tuple[Any, ...],
    *,
    deterministic: bool,
    needs_rng: bool,
    compute: Compute,
) -> jax.Array:
    """x -> layer_k(x, *inputs, deterministic) for the layers `names`, children of `parent` (in its compact method).

    Initialisation, and calls that record intermediates, always run the layers as plain children of `parent`.

    Args:
        needs_rng: whether the layers draw dropout; looping and recomputing draw other bits than plain children do.
    """
    scan = compute.scans(len(names)) and len(names) > 1
    recording = parent.is_initializing() or parent.is_mutable_collection("intermediates")
    if recording or not (scan or compute.remat):
        for name in names:
            x = layer(name)(x, *inputs, deterministic)
        return x

    params = [parent.variables["params"][name] for name in names]
    keys = jax.random.split(parent.make_rng("dropout"), len(names)) if needs_rng else None
    template = layer(None).clone(parent=None)

    def run(x: jax.Array, weights: Any, key: jax.Array | None) -> jax.Array:
        rngs = {} if key is None else {"dropout": key}
        return template.apply({"params": weights}, x, *inputs, deterministic, rngs=rngs)

    if compute.remat:
        run = jax.checkpoint(run, prevent_cse=not scan)
    if not scan:
        for index, weights in enumerate(params):
            x = run(x, weights, None if keys is None else keys[index])
        return x
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    return jax.lax.scan(lambda carry, xs: (run(carry, *xs), None), x, (stacked, keys))[0]
