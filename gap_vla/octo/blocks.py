"""The transformer: pre-norm blocks, groups of tokens with rules for who attends to whom, and pooling by attention.

`BlockTransformer.__call__` has upstream's signature and its groups upstream's field names, so that a method
interceptor written against one (as `gap_vla.adjustment` does it) also works on the other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gap_vla.core.errors import ConfigError
from gap_vla.octo.attention import MANY, Spans, attention, key_spans
from gap_vla.octo.token_groups import PrefixGroup, TimestepGroup, TokenGroup, layout_mask


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model computes, chosen at load time and never written into a checkpoint's config: parameters stay as they
    are, results too but for rounding and dropout's draws.

    Attributes:
        dtype: arithmetic of encoders and transformers; parameters stay float32. bfloat16 pays on accelerators only.
    """

    dtype: Any = jnp.float32


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """tanh-approximated GELU; of it only `x` is kept for the gradient, the rest is cheaper to compute again."""
    return nn.gelu(x)


# the sum keeps the compiler from computing and keeping the rest in the forward pass, as in `attention`
gelu.defvjp(lambda x: (nn.gelu(x), x), lambda x, change: jax.vjp(nn.gelu, x + 0 * change)[1](change))


class MlpBlock(nn.Module):
    """Dense, tanh-approximated GELU, dropout, Dense, dropout; the output has the input's width."""

    mlp_dim: int
    dropout_rate: float = 0.1
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        def dense(width: int) -> nn.Dense:
            return nn.Dense(
                width,
                dtype=self.compute.dtype,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.normal(1e-6),
            )

        hidden = gelu(dense(self.mlp_dim)(x))
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        return nn.Dropout(self.dropout_rate)(dense(x.shape[-1])(hidden), deterministic=deterministic)


class Encoder1DBlock(nn.Module):
    """h = x + attention(LN(x)); y = h + MLP(LN(h)). `x` is float[B, N, D], `mask` bool[B, 1, N, N].

    With `rows`, indices of tokens, the result is float[B, len(rows), D]: only these are computed.
    """

    mlp_dim: int
    num_heads: int
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    compute: Compute = Compute()
    spans: Spans = ()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, deterministic: bool, rows: np.ndarray | None = None) -> jax.Array:
        hidden = keys = nn.LayerNorm(dtype=self.compute.dtype)(x)
        if rows is not None:
            x, hidden, mask = x[:, rows], hidden[:, rows], mask[:, :, rows]
        hidden = nn.MultiHeadDotProductAttention(
            num_heads=self.num_heads,
            dtype=self.compute.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            broadcast_dropout=False,
            dropout_rate=self.attention_dropout_rate,
            force_fp32_for_softmax=True,
            attention_fn=functools.partial(attention, spans=self.spans if rows is None else ()),
        )(hidden, keys, mask=mask, deterministic=deterministic)
        x = x + nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        hidden = nn.LayerNorm(dtype=self.compute.dtype)(x)
        mlp = MlpBlock(mlp_dim=self.mlp_dim, dropout_rate=self.dropout_rate, compute=self.compute)
        return x + mlp(hidden, deterministic=deterministic)


class Transformer(nn.Module):
    """`num_layers` blocks and a final LayerNorm; float[B, N, D] in and out, attention where `mask` is True.

    With `rows`, indices of tokens, only these come out, float[B, len(rows), D], and the last block computes no others.
    """

    num_layers: int
    mlp_dim: int
    num_attention_heads: int
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    add_position_embedding: bool = False
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 N N"],
        *,
        train: bool,
        rows: np.ndarray | None = None,
        spans: Spans = (),
    ) -> Float[Array, "B M D"]:
        if self.add_position_embedding:
            raise ConfigError("add_position_embedding must be False: Octo adds its own embeddings per token group")

        x = x.astype(self.compute.dtype)
        for layer in range(self.num_layers):
            block = Encoder1DBlock(
                mlp_dim=self.mlp_dim,
                num_heads=self.num_attention_heads,
                dropout_rate=self.dropout_rate,
                attention_dropout_rate=self.attention_dropout_rate,
                compute=self.compute,
                spans=spans,
                name=f"encoderblock_{layer}",
            )
            last: dict[str, Any] = {} if rows is None or layer < self.num_layers - 1 else {"rows": rows}
            x = block(x, mask, not train, **last)
        return nn.LayerNorm(dtype=self.compute.dtype, name="encoder_norm")(x)


class MAPHead(nn.Module):
    """Pooling by attention: learned probes attend to a group's unmasked tokens.

    float[..., n, D] with its mask in, float[..., num_readouts, D] out; D must be divisible by `num_heads`.
    """

    num_heads: int = 8
    num_readouts: int = 1

    @nn.compact
    def __call__(self, inputs: TokenGroup | jax.Array, train: bool = True) -> jax.Array:
        group = inputs if isinstance(inputs, TokenGroup) else TokenGroup.create(inputs)
        *leading, length, width = group.tokens.shape
        tokens = group.tokens.reshape(-1, length, width)
        mask = group.mask.reshape(-1, length).astype(bool)
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, self.num_readouts, width))
        out = nn.MultiHeadDotProductAttention(num_heads=self.num_heads, kernel_init=nn.initializers.xavier_uniform())(
            jnp.tile(probe, (len(tokens), 1, 1)), tokens, mask=mask[:, None, None, :], deterministic=True
        )
        mlp = MlpBlock(mlp_dim=4 * width)
        out = out + mlp(nn.LayerNorm()(out), deterministic=not train)
        return out.reshape(*leading, self.num_readouts, width)


class BlockTransformer(nn.Module):
    """Lays groups out as one sequence, attends by their rules, and hands the same groups back with new tokens.

    Sequence: all prefix groups, then for every timestep all timestep groups in the order given. Masked tokens are
    hidden as keys only; a token without any allowed key averages over the whole sequence, as upstream.

    Called with `only`, names of timestep groups, it returns no others, and its last block computes no others. (With
    few tokens it does so in training only: a product of few rows may round otherwise than one of many, and a policy's
    actions should not depend on how many episodes share a batch.)
    """

    transformer_kwargs: Mapping[str, Any]
    use_correct_attention: bool = False
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        prefix_groups: Sequence[PrefixGroup],
        timestep_groups: Sequence[TimestepGroup],
        train: bool,
        only: Collection[str] | None = None,
    ) -> tuple[list[PrefixGroup], list[TimestepGroup]]:
        batch, horizon, _, width = timestep_groups[0].tokens.shape
        prefix_sizes = [group.tokens.shape[1] for group in prefix_groups]
        timestep_sizes = [group.tokens.shape[2] for group in timestep_groups]

        steps = TokenGroup.concatenate(timestep_groups)
        tokens = [group.tokens for group in prefix_groups] + [steps.tokens.reshape(batch, -1, width)]
        pad = [group.mask for group in prefix_groups] + [steps.mask.reshape(batch, -1)]
        groups: list[PrefixGroup | TimestepGroup] = [*prefix_groups, *timestep_groups]
        allowed = layout_mask(
            [group.name for group in groups],
            [group.attention_rules for group in groups],
            prefix_sizes,
            timestep_sizes,
            horizon,
            use_correct_attention=self.use_correct_attention,
        )
        mask = jnp.logical_and(allowed, jnp.concatenate([p.astype(bool) for p in pad], axis=1)[:, None, None, :])

        transformer = Transformer(**self.transformer_kwargs, compute=self.compute)
        prefix, step = sum(prefix_sizes), sum(timestep_sizes)
        spans = key_spans(allowed, [prefix + step * (time + 1) for time in range(horizon)])
        sequence = jnp.concatenate(tokens, axis=1)
        if only is None:
            out = transformer(sequence, mask, train=train, spans=spans)
            step_tokens = out[:, prefix:].reshape(batch, horizon, step, width)
            return _replaced(prefix_groups, out[:, :prefix]), _replaced(timestep_groups, step_tokens)
        chosen = np.repeat([group.name in only for group in timestep_groups], timestep_sizes)
        rows = np.flatnonzero(np.concatenate([np.zeros(prefix, bool), np.tile(chosen, horizon)]))
        if train or len(allowed) >= MANY:
            out = transformer(sequence, mask, train=train, rows=rows, spans=spans)
        else:
            out = transformer(sequence, mask, train=train, spans=spans)[:, rows]
        kept = [group for group in timestep_groups if group.name in only]
        return [], _replaced(kept, out.reshape(batch, horizon, -1, width))


def _replaced(groups: Sequence[Any], tokens: jax.Array) -> list[Any]:
    """The groups with new tokens, float[..., n, D], where n is that of all groups together."""
    found, start = [], 0
    for group in groups:
        size = group.tokens.shape[-2]
        found.append(dataclasses.replace(group, tokens=tokens[..., start : start + size, :]))
        start += size
    return found
