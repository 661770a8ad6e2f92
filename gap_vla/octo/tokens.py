"""Groups of tokens with their masks: what tokenizers return, what the transformer mixes and what heads read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


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
        if mask.shape != tokens.shape[:-1]:
            raise ValueError(f"tokens of shape {tokens.shape} need a mask {tokens.shape[:-1]}, found {mask.shape}")
        return cls(tokens=tokens, mask=mask, **fields)

    @classmethod
    def concatenate(cls, groups: Sequence[TokenGroup], axis: int = -2) -> TokenGroup:
        """One group of all tokens; `axis` counts in `tokens`, so the default is the token axis."""
        tokens = jnp.concatenate([group.tokens for group in groups], axis=axis)
        mask = jnp.concatenate([group.mask for group in groups], axis=axis + 1)
        return TokenGroup(tokens=tokens, mask=mask)
