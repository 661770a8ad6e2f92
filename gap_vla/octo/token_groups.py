"""Groups of tokens with their masks, and who may attend to whom: tokenizers return groups, heads read them.

The block-wise causal rules match groups by `fnmatch` patterns: the first pattern that fits wins and no fit means
never. The mask that they give depends only on the layout of the sequence, so it is computed in numpy while tracing and
costs nothing per step.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool


@struct.dataclass
class TokenGroup:
    """Tokens that belong together.

    Attributes:
        tokens: float[..., n, d]; the leading axes are (B,) for the prefix and (B, W) for timesteps.
        mask: bool[..., n], False where other tokens must not look.
    """

    tokens: jax.Array
    mask: jax.Array

    @classmethod
    def create(cls, tokens: jax.Array, mask: jax.Array | None = None, **fields: Any) -> Any:
        """A group whose mask is all True unless given."""
        if mask is None:
            mask = jnp.ones(tokens.shape[:-1], bool)
        return cls(tokens=tokens, mask=mask, **fields)

    @classmethod
    def concatenate(cls, groups: Sequence[TokenGroup]) -> TokenGroup:
        """One group of all tokens."""
        tokens = jnp.concatenate([group.tokens for group in groups], axis=-2)
        return TokenGroup(tokens=tokens, mask=jnp.concatenate([group.mask for group in groups], axis=-1))


PREFIX_TIMESTEP = -1


class AttentionRule(enum.Enum):
    """When a token at one timestep may look at a token at another."""

    NEVER = "never"
    CAUSAL = "other.timestep <= self.timestep"
    ALL = "all"


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


def find_rule(rules: Mapping[str, AttentionRule], name: str) -> AttentionRule:
    """The rule of the first pattern in `rules` that matches `name`."""
    return next((rule for pattern, rule in rules.items() if fnmatch(name, pattern)), AttentionRule.NEVER)


def layout_mask(
    names: Sequence[str],
    rules: Sequence[Mapping[str, AttentionRule]],
    prefix_sizes: Sequence[int],
    timestep_sizes: Sequence[int],
    horizon: int,
    *,
    use_correct_attention: bool,
) -> Bool[np.ndarray, "N N"]:
    """bool[N, N], True where the token of the row may attend to the token of the column, padding apart.

    The sequence is all prefix groups, then for every timestep all timestep groups. `names` and `rules` list the
    prefix groups, then the timestep groups.

    Args:
        use_correct_attention: False reproduces the models of December 2023, where the first token of every group but
            the first was taken for a member of the group before it (within the prefix and within a timestep).
    """
    side: Literal["left", "right"] = "right" if use_correct_attention else "left"

    def members(sizes: Sequence[int], offset: int) -> np.ndarray:
        return offset + np.searchsorted(np.cumsum(sizes), np.arange(sum(sizes)), side=side)

    prefix = members(prefix_sizes, 0)
    step = members(timestep_sizes, len(prefix_sizes))
    group = np.concatenate([prefix, np.tile(step, horizon)])
    time = np.concatenate([np.full(len(prefix), PREFIX_TIMESTEP), np.repeat(np.arange(horizon), len(step))])

    between = np.array([[find_rule(own, name) for name in names] for own in rules], object)
    causal, always = between == AttentionRule.CAUSAL, between == AttentionRule.ALL
    tokens = np.ix_(group, group)
    return always[tokens] | (causal[tokens] & (time[None, :] <= time[:, None]))
