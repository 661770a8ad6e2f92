"""The block-wise causal transformer: groups of tokens in a sequence, with rules for who attends to whom.

`BlockTransformer.__call__` has upstream's signature and its groups upstream's field names, so that a method
interceptor written against one (as `gap_vla.adjustment` does it) also works on the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from gap_vla.octo.attention_rules import AttentionRule, find_rule, layout_mask
from gap_vla.octo.blocks import Transformer
from gap_vla.octo.compute import Compute
from gap_vla.octo.tokens import TokenGroup


@struct.dataclass
class PrefixGroup(TokenGroup):
    """A group before all timesteps (the task): tokens float[B, n, D], mask bool[B, n].

    Attributes:
        name: matched against the patterns of `attention_rules`.
        attention_rules: pattern of another group's name -> when this group's tokens may look at it; first match wins.
    """

    name: str = struct.field(pytree_node=False)
    attention_rules: Mapping[str, AttentionRule] = struct.field(pytree_node=False)


@struct.dataclass
class TimestepGroup(TokenGroup):
    """A group that repeats every timestep: tokens float[B, W, n, D], mask bool[B, W, n]; fields as `PrefixGroup`."""

    name: str = struct.field(pytree_node=False)
    attention_rules: Mapping[str, AttentionRule] = struct.field(pytree_node=False)


class BlockTransformer(nn.Module):
    """Lays groups out as one sequence, attends by their rules, and hands the same groups back with new tokens.

    Sequence: all prefix groups, then for every timestep all timestep groups in the order given. Masked tokens are
    hidden as keys only; a token without any allowed key averages over the whole sequence, as upstream.
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
        verbose: bool = False,
    ) -> tuple[list[PrefixGroup], list[TimestepGroup]]:
        if not timestep_groups:
            raise ValueError("no timestep tokens: none of the observation tokenizers found its keys")
        if self.enforce_causal:
            _check_causal(prefix_groups, timestep_groups)
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
        if verbose:
            print(describe_layout(prefix_groups, timestep_groups))

        out = Transformer(**self.transformer_kwargs, compute=self.compute)(
            jnp.concatenate(tokens, axis=1), mask, train=train
        )
        prefix_tokens, step_tokens = out[:, : sum(prefix_sizes)], out[:, sum(prefix_sizes) :]
        step_tokens = step_tokens.reshape(batch, horizon, sum(timestep_sizes), width)
        return (
            [dataclasses.replace(g, tokens=t) for g, t in zip(prefix_groups, _split(prefix_tokens, prefix_sizes))],
            [dataclasses.replace(g, tokens=t) for g, t in zip(timestep_groups, _split(step_tokens, timestep_sizes))],
        )


def describe_layout(prefix_groups: Sequence[PrefixGroup], timestep_groups: Sequence[TimestepGroup]) -> str:
    """One line per group: its name, its number of tokens and what it attends to."""
    lines = []
    for kind, groups in (("prefix", prefix_groups), ("timestep", timestep_groups)):
        for group in groups:
            rules = ", ".join(f"{pattern}: {rule.value}" for pattern, rule in group.attention_rules.items())
            lines.append(f"{kind} {group.name}: tokens {tuple(group.tokens.shape)}; attends to {rules or 'nothing'}")
    return "\n".join(lines)


def _split(tokens: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(tokens[..., start : start + size, :])
        start += size
    return pieces


def _check_causal(prefix_groups: Sequence[PrefixGroup], timestep_groups: Sequence[TimestepGroup]) -> None:
    for group in prefix_groups:
        for other in timestep_groups:
            if find_rule(group.attention_rules, other.name) is not AttentionRule.NEVER:
                raise ValueError(f"prefix group {group.name} would attend to timestep group {other.name}")
