"""Gradient accumulation: a batch in parts, one after the other, with the gradient of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gap_vla.core.typed_config import ConfigError


def counted_entries(batch: Mapping[str, Any]) -> jax.Array:
    """How many action entries a batch's loss is a mean over: neither padded in the window nor in the chunk."""
    mask = jnp.asarray(batch["observation"]["timestep_pad_mask"])[:, :, None, None]
    return jnp.sum((batch["action_pad_mask"] & mask).astype(jnp.float32))


def accumulated(
    function: Callable[..., Any], params: Any, batch: Mapping[str, Any], sample: jax.Array, rng: jax.Array, parts: int
) -> Any:
    """What `function(params, batch, sample, rng)` gives for a mean over the whole batch, computed in `parts`.

    A part holds every `parts`-th sample, so that each device keeps its share of every part. Parts are weighted with the
    action entries that they count, as the loss of the whole batch weights them. Random draws (dropout, a diffusion
    head's noise) are others than those of the whole batch.

    Args:
        function: gives a tree of floating-point numbers, means over counted entries.
        sample: float32[B, W], GAP's factor.

    Raises:
        ConfigError: the batch cannot be cut into so many parts.
    """
    if parts == 1:
        return function(params, batch, sample, rng)
    size = len(sample)
    if size % parts:
        raise ConfigError(f"a batch of {size} cannot be accumulated in {parts} equal parts; change train.accumulate")

    def cut(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return jnp.moveaxis(leaf.reshape(size // parts, parts, *leaf.shape[1:]), 1, 0)

    pieces, factors = jax.tree_util.tree_map(cut, dict(batch)), cut(sample)
    entries = jax.vmap(counted_entries)(pieces)
    weights = entries / jnp.maximum(jnp.sum(entries), 1)

    def add(total: Any, inputs: Any) -> tuple[Any, None]:
        index, piece, factor, weight = inputs
        found = function(params, piece, factor, jax.random.fold_in(rng, index))
        return jax.tree_util.tree_map(lambda a, b: a + weight * b, total, found), None

    first = jax.tree_util.tree_map(lambda leaf: leaf[0], (pieces, factors))
    shapes = jax.eval_shape(function, params, *first, rng)
    zeros = jax.tree_util.tree_map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(parts), pieces, factors, weights))[0]
