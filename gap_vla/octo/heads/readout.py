"""What all heads share: the embedding they read, and masked losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gap_vla.core.typed_config import ConfigError
from gap_vla.octo.batches import BatchError
from gap_vla.octo.token_groups import TokenGroup


def find_group(transformer_outputs: Mapping[str, TokenGroup], readout_key: str) -> TokenGroup:
    """The group a head reads, tokens float32[B, W, n, D]."""
    if readout_key not in transformer_outputs:
        raise ConfigError(
            f"the head reads {readout_key!r}, the transformer gives {sorted(transformer_outputs)}; "
            "set the head's readout_key, or add the readout"
        )
    group = transformer_outputs[readout_key]
    if group.tokens.ndim != 4:
        raise ConfigError(
            f"the head reads {readout_key!r}, which must be (B, W, n, D) and is {group.tokens.shape}: "
            "use a readout or an obs group"
        )
    return group


def pool(group: TokenGroup, map_head: Any | None, train: bool) -> jax.Array:
    """float32[B, W, D]: attention pooling, or without `map_head` the plain mean, which ignores the mask as upstream."""
    if map_head is None:
        return group.tokens.mean(axis=-2)
    return map_head(group, train=train)[:, :, 0]


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `x` where `mask`, 0 if it is nowhere."""
    mask = jnp.broadcast_to(mask, x.shape)
    return jnp.mean(x * mask) / jnp.maximum(jnp.mean(mask), 1e-5)


def action_mask(timestep_pad_mask: jax.Array, action_pad_mask: jax.Array) -> jax.Array:
    """bool[B, W, H, A] from bool[B, W] and bool[B, W, H, A]: the entries that a loss counts."""
    return timestep_pad_mask.astype(bool)[:, :, None, None] & action_pad_mask.astype(bool)


def continuous_loss(
    predictions: jax.Array, targets: jax.Array, mask: jax.Array, loss_type: str
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Masked mean of the squared (`"mse"`) or absolute (`"l1"`) error, with the squared error as a metric."""
    squared = jnp.square(predictions - targets)
    if loss_type not in ("mse", "l1"):
        raise ConfigError(f"loss_type must be 'mse' or 'l1', found {loss_type!r}")
    loss = masked_mean(squared if loss_type == "mse" else jnp.abs(predictions - targets), mask)
    return loss, {"loss": loss, "mse": masked_mean(squared, mask)}


def sum_over_action_dims(
    loss: jax.Array, metrics: dict[str, jax.Array], action_dim: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and its metrics times `action_dim`, the scale of upstream's continuous heads."""
    return loss * action_dim, {name: value * action_dim for name, value in metrics.items()}


def check_actions(actions: jax.Array, action_pad_mask: jax.Array, horizon: int, dim: int) -> None:
    """Actions must be (B, W, horizon, dim), and their mask too."""
    if actions.ndim != 4 or actions.shape[-2:] != (horizon, dim) or action_pad_mask.shape != actions.shape:
        raise BatchError(
            f"the head predicts (B, W, {horizon}, {dim}); found action {actions.shape} "
            f"and action_pad_mask {action_pad_mask.shape}: build the model for these, or cut the data into such chunks"
        )
