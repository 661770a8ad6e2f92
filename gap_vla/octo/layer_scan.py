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
    rows: Any = None,
) -> jax.Array:
    """x -> layer_k(x, *inputs, deterministic) for the layers `names`, children of `parent` (in its compact method).

    Initialisation, and calls that record intermediates, always run the layers as plain children of `parent`.

    Args:
        needs_rng: whether the layers draw dropout; looping and recomputing draw other bits than plain children do.
        rows: what the last layer is given as `rows`, if anything.
    """
    scan = compute.scans(len(names)) and len(names) > 1
    recording = parent.is_initializing() or parent.is_mutable_collection("intermediates")
    last: dict[str, Any] = {} if rows is None else {"rows": rows}
    if recording or not (scan or compute.remat):
        for name in names:
            x = layer(name)(x, *inputs, deterministic, **(last if name == names[-1] else {}))
        return x

    params = [parent.variables["params"][name] for name in names]
    keys = jax.random.split(parent.make_rng("dropout"), len(names)) if needs_rng else None
    template = layer(None).clone(parent=None)

    def runs(options: dict[str, Any]) -> Callable[[jax.Array, Any, jax.Array | None], jax.Array]:
        def run(x: jax.Array, weights: Any, key: jax.Array | None) -> jax.Array:
            rngs = {} if key is None else {"dropout": key}
            return template.apply({"params": weights}, x, *inputs, deterministic, rngs=rngs, **options)

        return jax.checkpoint(run, prevent_cse=not scan) if compute.remat else run

    def key_of(index: int) -> jax.Array | None:
        return None if keys is None else keys[index]

    looped = 0
    if scan:  # the last layer stays outside if it has a form of its own
        looped = len(names) - bool(last)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params[:looped])
        run = runs({})
        x = jax.lax.scan(
            lambda carry, xs: (run(carry, *xs), None), x, (stacked, None if keys is None else keys[:looped])
        )[0]
    for index in range(looped, len(names)):
        x = runs(last if index == len(names) - 1 else {})(x, params[index], key_of(index))
    return x
