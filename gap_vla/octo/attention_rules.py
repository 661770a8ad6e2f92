"""Who may attend to whom: the block-wise causal rules between token groups, and the mask they give.

Groups are matched by `fnmatch` patterns, the first pattern that fits wins and no fit means never. All of it depends
only on the layout of the sequence, so it is computed in numpy while tracing and costs nothing per step.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Literal

import numpy as np
from jaxtyping import Bool

PREFIX_TIMESTEP = -1


class AttentionRule(enum.Enum):
    """When a token at one timestep may look at a token at another."""

    NEVER = "never"
    CAUSAL = "other.timestep <= self.timestep"
    CURRENT = "other.timestep == self.timestep"
    STRICT_PAST = "other.timestep < self.timestep"
    ALL = "all"

    def allows(self, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        """bool, broadcast over the timesteps `own` (the query's) and `other` (the key's)."""
        if self is AttentionRule.NEVER:
            return np.zeros(np.broadcast_shapes(own.shape, other.shape), bool)
        if self is AttentionRule.CAUSAL:
            return other <= own
        if self is AttentionRule.CURRENT:
            return other == own
        if self is AttentionRule.STRICT_PAST:
            return other < own
        return np.ones(np.broadcast_shapes(own.shape, other.shape), bool)


def find_rule(rules: Mapping[str, AttentionRule], name: str) -> AttentionRule:
    """The rule of the first pattern in `rules` that matches `name`."""
    for pattern, rule in rules.items():
        if fnmatch(name, pattern):
            return rule
    return AttentionRule.NEVER


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
        index = np.searchsorted(np.cumsum(sizes), np.arange(sum(sizes)), side=side)
        return index + offset

    prefix = members(prefix_sizes, 0)
    step = members(timestep_sizes, len(prefix_sizes))
    group = np.concatenate([prefix, np.tile(step, horizon)])
    time = np.concatenate([np.full(len(prefix), PREFIX_TIMESTEP), np.repeat(np.arange(horizon), len(step))])

    mask = np.zeros((len(group), len(group)), bool)
    for own, own_rules in enumerate(rules):
        rows = np.flatnonzero(group == own)
        for other, other_name in enumerate(names):
            columns = np.flatnonzero(group == other)
            rule = find_rule(own_rules, other_name)
            mask[np.ix_(rows, columns)] = rule.allows(time[rows][:, None], time[columns][None, :])
    return mask
