"""Heads that regress the action: L1 and mean squared error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gap_vla.octo.blocks import MAPHead
from gap_vla.octo.heads import readout
from gap_vla.octo.token_groups import TokenGroup


class ContinuousActionHead(readout.ActionHead):
    """Predicts tanh(x / max_action) * max_action, H steps of A dimensions at every window step.

    Attributes:
        max_action: bound of predictions, in normalised units; targets are not clipped.
        loss_type: `"mse"` or `"l1"`.
    """

    max_action: float = 5.0
    loss_type: str = "mse"

    def setup(self) -> None:
        self.map_head = MAPHead() if self.use_map else None
        self.mean_proj = nn.Dense(self.action_horizon * self.action_dim)

    def __call__(self, transformer_outputs: Mapping[str, TokenGroup], train: bool = True) -> Float[Array, "B W H A"]:
        """float32[B, W, H, A], normalised actions."""
        group = readout.find_group(transformer_outputs, self.readout_key)
        mean = self.mean_proj(readout.pool(group, self.map_head, train))
        mean = mean.reshape(*mean.shape[:-1], self.action_horizon, self.action_dim)
        return jnp.tanh(mean / self.max_action) * self.max_action

    def masked_loss(
        self, transformer_outputs: Mapping[str, TokenGroup], actions: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        predictions = self(transformer_outputs, train=train)
        return readout.continuous_loss(predictions, actions, mask, self.loss_type, self.action_dim)

    def predict_action(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        train: bool = True,
        *args: Any,
        sample_shape: Sequence[int] = (),
        **kwargs: Any,
    ) -> Float[Array, "*sample B H A"]:
        """float32[*sample_shape, B, H, A] of the last window step; deterministic, so samples are equal."""
        mean = self(transformer_outputs, train=train)[:, -1]
        return jnp.broadcast_to(mean, (*sample_shape, *mean.shape))


class MSEActionHead(ContinuousActionHead):
    """`ContinuousActionHead` with attention pooling and mean squared error."""

    use_map: bool = True


class L1ActionHead(ContinuousActionHead):
    """`ContinuousActionHead` with attention pooling and absolute error."""

    loss_type: str = "l1"
    use_map: bool = True
