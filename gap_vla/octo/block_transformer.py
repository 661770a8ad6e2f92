"""The block-wise causal transformer: groups of tokens in a sequence, with rules for who attends to whom.

`BlockTransformer.__call__` has upstream's signature and its groups upstream's field names, so that a method
interceptor written against one (as `gap_vla.adjustment` does it) also works on the other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gap_vla.core.errors import ConfigError
from gap_vla.octo.attention import MANY, key_spans
from gap_vla.octo.blocks import Compute, Transformer
from gap_vla.octo.token_groups import AttentionRule, PrefixGroup, TimestepGroup, TokenGroup, find_rule, layout_mask


class BlockTransformer(nn.Module):
    """Lays groups out as one sequence, attends by their rules, and hands the same groups back with new tokens.

    Sequence: all prefix groups, then for every timestep all timestep groups in the order given. Masked tokens are
    hidden as keys only; a token without any allowed key averages over the whole sequence, as upstream.

    Called with `only`, names of timestep groups, it returns no others, and its last block computes no others. (With
    few tokens it does so in training only: a product of few rows may round otherwise than one of many, and a policy's
    actions should not depend on how many episodes share a batch.)
    """

    transformer_kwargs: Mapping[str, Any]
    enforce_causal: bool = True
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
        for group, other in itertools.product(prefix_groups, timestep_groups) if self.enforce_causal else ():
            if find_rule(group.attention_rules, other.name) is not AttentionRule.NEVER:
                raise ConfigError(f"prefix group {group.name} would attend to timestep group {other.name}; forbid it")
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
