"""How a model computes, apart from what it computes: nothing here changes parameters, checkpoints or results.

A stack of equal layers runs unrolled or as one loop, which compiles one layer instead of all. The parameters keep
upstream's layout, one sub-tree per layer: they are stacked inside the compiled step, so that neither checkpoints nor
optimizer states nor interceptors see a difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Compute:
    """Options of the implementation, chosen at load time and never written into a checkpoint's config.

    Attributes:
        dtype: arithmetic of encoders and transformers; parameters stay float32. bfloat16 pays on accelerators only.
        scan_layers: trace and compile one transformer layer and loop over it, which copies the layers' parameters and
            gradients at every step. None means from 24 layers on, and with `remat`: with 12 layers it saves only a
            second or two of compilation, but without a loop XLA does little of what `remat` asks for on a CPU.
        remat: recompute each layer's activations in the backward pass: less memory, about a third more time.
    """

    dtype: Any = jnp.float32
    scan_layers: bool | None = None
    remat: bool = False

    def scans(self, num_layers: int) -> bool:
        """Whether a stack of `num_layers` is looped over."""
        return (self.remat or num_layers >= 24) if self.scan_layers is None else self.scan_layers


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
