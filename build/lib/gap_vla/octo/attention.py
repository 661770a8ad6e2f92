"""Attention over many tokens with few passes over its N × N weights; the results are flax's up to rounding.

In float32 on a CPU most of attention's time goes into reading and writing N × N numbers, not into products. So

- weights that the layout forbids to every sample (those of later timesteps) are not computed,
- the weights are normalised after they are applied, on N × D numbers, and
- the gradient computes them again from two numbers per row instead of keeping those of all layers (as FlashAttention,
  arXiv 2205.14135, does it), with dS = P · (dP − rowsum(dO · O)).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

MANY = 256
"""Tokens from which this pays; with fewer, the weights are small and flax's own attention is as fast."""

Spans = tuple[tuple[int, int], ...]
"""Pairs (end of the queries, end of the keys): each run of queries looks at the first keys only, see `key_spans`."""


def key_spans(allowed: np.ndarray, stops: list[int]) -> Spans:
    """Up to which key the queries before each of `stops` look at most, by the layout bool[N, N].

    Example:
        >>> key_spans(np.tril(np.ones((4, 4), bool)), [2, 4])
        ((2, 2), (4, 4))
    """
    spans, start = [], 0
    for stop in stops:
        columns = np.flatnonzero(allowed[start:stop].any(axis=0))
        spans.append((stop, int(columns[-1]) + 1 if len(columns) else allowed.shape[1]))
        start = stop
    return tuple(spans)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    dropout_rng: jax.Array | None,
    dropout_rate: float,
    broadcast_dropout: bool,
    deterministic: bool,
    dtype: Any,
    force_fp32_for_softmax: bool,
    spans: Spans = (),
) -> jax.Array:
    """`nn.dot_product_attention`, or the same computed as the module says where there are many tokens.

    float[B, N, heads, D] each (N may differ between queries and keys), `mask` bool[B, 1, N, N]. A query without any
    allowed key averages over all values, as upstream. The names of the arguments are those by which flax passes them.

    Args:
        spans: of all queries, from `key_spans`; none if the queries are a selection.
    """
    drops = not deterministic and dropout_rate > 0
    if query.shape[1] < MANY or drops or not force_fp32_for_softmax:
        return nn.dot_product_attention(
            query,
            key,
            value,
            mask=mask,
            dropout_rng=dropout_rng,
            dropout_rate=dropout_rate,
            broadcast_dropout=broadcast_dropout,
            deterministic=deterministic,
            dtype=dtype,
            force_fp32_for_softmax=force_fp32_for_softmax,
        )
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    parts, start = [], 0
    for stop, keys in spans or ((query.shape[1], key.shape[1]),):
        part = attend(query[:, start:stop], key[:, :keys], value[:, :keys], mask[:, :, start:stop, :keys])
        if keys < key.shape[1]:
            blind = ~jnp.any(mask[:, 0, start:stop, :keys], axis=-1)[:, :, None, None]
            part = jnp.where(blind, jnp.mean(value, axis=1, keepdims=True), part)
        parts.append(part)
        start = stop
    return jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


@jax.custom_vjp
def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(query · key / √D where `mask`) · value, the softmax in float32.

    Shapes: query float[B, N, heads, D]; key, value float[B, M, heads, D]; mask bool[B, 1, N, M].
    """
    return _forward(query, key, value, mask)[0]


def _scores(query: jax.Array, key: jax.Array, mask: jax.Array) -> jax.Array:
    """float32[B, heads, N, M]; what the mask forbids is the least number, so that rows without any key stay finite."""
    query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    return jnp.where(mask, scores, jnp.finfo(scores.dtype).min).astype(jnp.float32)


def _forward(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> tuple[jax.Array, Any]:
    scores = _scores(query, key, mask)
    # the second maximum changes nothing, but keeps the compiler from writing the first one out N × M times
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - top)
    share = 1 / jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value)
    out = (out * jnp.swapaxes(share, 1, 2)).astype(value.dtype)
    return out, (query, key, value, mask, top, share, out)


def _backward(kept: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    query, key, value, mask, top, share, out = kept
    # A query that depends on the cotangent: else the compiler finds the weights equal to those of the forward pass,
    # computes them there and keeps them (XLA drops optimization barriers on CPUs).
    query = query + 0 * cotangent[:, :1, :1, :1].astype(query.dtype)
    weights = jnp.exp(_scores(query, key, mask) - top) * share
    towards = jnp.einsum("bqhd,bkhd->bhqk", cotangent, value)
    mean = jnp.einsum("bqhd,bqhd->bhq", cotangent, out)[..., None]
    of_scores = jnp.where(mask, weights * (towards - mean), 0).astype(query.dtype)
    scale = 1 / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    return (
        jnp.einsum("bhqk,bkhd->bqhd", of_scores, key) * scale,
        jnp.einsum("bhqk,bqhd->bkhd", of_scores, query) * scale,
        jnp.einsum("bhqk,bqhd->bkhd", weights.astype(cotangent.dtype), cotangent),
        None,
    )


attend.defvjp(_forward, _backward)
