"""Action heads, from a readout's tokens to actions and losses: those that regress or classify the action.

`gap_vla.octo.diffusion` has the one that denoises it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError
from gap_vla.octo.blocks import MAPHead
from gap_vla.octo.token_groups import TokenGroup
from gap_vla.octo.tokenizers import BinTokenizer


class ActionHead(nn.Module):
    """A head that predicts H steps of A dimensions at every window step.

    Attributes:
        readout_key: the token group that is read, usually `"readout_action"`.
        use_map: pool the group by attention; otherwise by its mean.
        action_horizon: H, action_dim: A.
    """

    readout_key: str
    use_map: bool = False
    action_horizon: int = 1
    action_dim: int = 7

    def loss(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        actions: Float[Array, "B W H A"],
        timestep_pad_mask: Bool[Array, "B W"],
        action_pad_mask: Bool[Array, "B W H A"],
        train: bool = True,
        weight: Float[Array, "B W H"] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scalar loss and metrics, `loss` and `mse` among them.

        Args:
            actions: float32[B, W, H, A], normalised.
            timestep_pad_mask: bool[B, W], False where the window reaches before the episode.
            action_pad_mask: bool[B, W, H, A], False where an entry is not to be learned.
            weight: of every action. With it the metrics hold `weighted` too: the loss with the part of each action
                times its weight.
        """
        horizon, dim = self.action_horizon, self.action_dim
        if actions.ndim != 4 or actions.shape[-2:] != (horizon, dim) or action_pad_mask.shape != actions.shape:
            raise ConfigError(
                f"the head predicts (B, W, {horizon}, {dim}); found action {actions.shape} "
                f"and action_pad_mask {action_pad_mask.shape}: build the model for these, or cut the data into such "
                "chunks"
            )
        if weight is not None and weight.shape != actions.shape[:3]:
            raise ConfigError(f"weight is {list(weight.shape)}, for actions {list(actions.shape)}: one for each action")
        mask = timestep_pad_mask.astype(bool)[:, :, None, None] & action_pad_mask.astype(bool)
        weight = None if weight is None else jnp.broadcast_to(weight[..., None], mask.shape)
        return self.masked_loss(transformer_outputs, actions, mask, train, weight)

    def masked_loss(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        actions: jax.Array,
        mask: jax.Array,
        train: bool,
        weight: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`loss` over the entries of `mask`, bool[B, W, H, A]; `weight` is of that shape too."""
        raise NotImplementedError


def find_group(transformer_outputs: Mapping[str, TokenGroup], readout_key: str) -> TokenGroup:
    """The group a head reads, tokens float32[B, W, n, D]."""
    return transformer_outputs[choose(readout_key, sorted(transformer_outputs), "the head's readout_key")]


def pool(group: TokenGroup, map_head: Any | None, train: bool) -> jax.Array:
    """float32[B, W, D]: attention pooling, or without `map_head` the plain mean, which ignores the mask as upstream."""
    return group.tokens.mean(axis=-2) if map_head is None else map_head(group, train=train)[:, :, 0]


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `x` where `mask`, 0 if it is nowhere."""
    mask = jnp.broadcast_to(mask, x.shape)
    return jnp.mean(x * mask) / jnp.maximum(jnp.mean(mask), 1e-5)


def weighted_mean(x: jax.Array, mask: jax.Array, weight: jax.Array | None, scale: int = 1) -> dict[str, jax.Array]:
    """The metric `weighted`: `masked_mean` of weight · x, times `scale`; none without a weight."""
    return {} if weight is None else {"weighted": masked_mean(weight * x, mask) * scale}


def continuous_loss(
    predictions: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    loss_type: str,
    action_dim: int,
    weight: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Masked mean of the squared (`"mse"`) or absolute (`"l1"`) error, with the squared error as a metric.

    Both are means over entries times `action_dim`, the scale of upstream's continuous heads.
    """
    squared = jnp.square(predictions - targets)
    kind = choose(loss_type, ("mse", "l1"), "loss_type")
    error = squared if kind == "mse" else jnp.abs(predictions - targets)
    loss = masked_mean(error, mask)
    metrics = {"loss": loss * action_dim, "mse": masked_mean(squared, mask) * action_dim}
    return loss * action_dim, metrics | weighted_mean(error, mask, weight, action_dim)


class ContinuousActionHead(ActionHead):
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
        group = find_group(transformer_outputs, self.readout_key)
        mean = self.mean_proj(pool(group, self.map_head, train))
        mean = mean.reshape(*mean.shape[:-1], self.action_horizon, self.action_dim)
        return jnp.tanh(mean / self.max_action) * self.max_action

    def masked_loss(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        actions: jax.Array,
        mask: jax.Array,
        train: bool,
        weight: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        predictions = self(transformer_outputs, train=train)
        return continuous_loss(predictions, actions, mask, self.loss_type, self.action_dim, weight)

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


class DiscreteActionHead(ActionHead):
    """Logits over `vocab_size` bins for each of H x A action entries.

    Attributes:
        use_map: make the tokens by attention pooling; otherwise the group must have as many as `token_per` says.
        token_per: `""` for one token, `"action_horizon"` for H, `"action_dim_and_action_horizon"` for H * A.
        vocab_size: bins per entry.
        normalization_type: the bins, `"uniform"` over [0, 1], so that actions must lie there, or `"normal"`.
    """

    token_per: str = "action_dim_and_action_horizon"
    vocab_size: int = 256
    normalization_type: str = "uniform"

    def setup(self) -> None:
        entries = self.action_horizon * self.action_dim
        tokens = {"": 1, "action_horizon": self.action_horizon, "action_dim_and_action_horizon": entries}
        self.num_tokens = tokens[choose(self.token_per, sorted(tokens), "token_per")]
        self.map_head = MAPHead(num_readouts=self.num_tokens) if self.use_map else None
        self.vocab_proj = nn.Dense(self.vocab_size * entries // self.num_tokens)
        self.action_tokenizer = BinTokenizer(n_bins=self.vocab_size, bin_type=self.normalization_type)

    def __call__(
        self, transformer_outputs: Mapping[str, TokenGroup], train: bool = True
    ) -> Float[Array, "B W H A vocab"]:
        """Logits, float32[B, W, H, A, vocab_size]."""
        group = find_group(transformer_outputs, self.readout_key)
        tokens = group.tokens if self.map_head is None else self.map_head(group, train=train)
        logits = self.vocab_proj(tokens)
        return logits.reshape(*tokens.shape[:2], self.action_horizon, self.action_dim, self.vocab_size)

    def masked_loss(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        actions: jax.Array,
        mask: jax.Array,
        train: bool,
        weight: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross-entropy, a mean over action dimensions; metrics `loss`, `accuracy` and `mse`, a sum, as upstream."""
        logits = self(transformer_outputs, train=train)
        labels = self.action_tokenizer(actions)
        entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        loss = masked_mean(entropy, mask)
        best = jnp.argmax(logits, axis=-1)
        mse = masked_mean(jnp.square(actions - self.action_tokenizer.decode(best)), mask)
        accuracy = masked_mean(best == labels, mask)
        metrics = {"loss": loss, "mse": mse * self.action_dim, "accuracy": accuracy}
        return loss, metrics | weighted_mean(entropy, mask, weight)

    def predict_action(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        train: bool = True,
        argmax: bool = False,
        sample_shape: Sequence[int] = (),
        rng: jax.Array | None = None,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> Float[Array, "*sample B H A"]:
        """float32[*sample_shape, B, H, A] of the last window step: the middles of the likeliest or of sampled bins."""
        logits = self(transformer_outputs, train=train)[:, -1]
        shape = (*sample_shape, *logits.shape[:-1])
        if argmax:
            bins = jnp.broadcast_to(jnp.argmax(logits, axis=-1), shape)
        else:
            assert rng is not None
            bins = jax.random.categorical(rng, logits / temperature, axis=-1, shape=shape)
        return self.action_tokenizer.decode(bins)


class TokenPerDimActionHead(DiscreteActionHead):
    """`DiscreteActionHead` with one token per action entry."""

    token_per: str = "action_dim_and_action_horizon"
