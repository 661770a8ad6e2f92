"""The head that classifies every action dimension into bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError
from gap_vla.octo.blocks import MAPHead
from gap_vla.octo.heads import readout
from gap_vla.octo.token_groups import TokenGroup
from gap_vla.octo.tokenizers import BinTokenizer


class DiscreteActionHead(readout.ActionHead):
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
        tokens = {
            "": 1,
            "action_horizon": self.action_horizon,
            "action_dim_and_action_horizon": entries,
        }
        self.num_tokens = tokens[choose(self.token_per, sorted(tokens), "token_per")]
        self.map_head = MAPHead(num_readouts=self.num_tokens) if self.use_map else None
        self.vocab_proj = nn.Dense(self.vocab_size * entries // self.num_tokens)
        self.action_tokenizer = BinTokenizer(n_bins=self.vocab_size, bin_type=self.normalization_type)

    def __call__(
        self, transformer_outputs: Mapping[str, TokenGroup], train: bool = True
    ) -> Float[Array, "B W H A vocab"]:
        """Logits, float32[B, W, H, A, vocab_size]."""
        group = readout.find_group(transformer_outputs, self.readout_key)
        tokens = group.tokens if self.map_head is None else self.map_head(group, train=train)
        if tokens.shape[-2] != self.num_tokens:
            raise ConfigError(
                f"token_per={self.token_per!r} needs {self.num_tokens} tokens, {self.readout_key!r} has "
                f"{tokens.shape[-2]}: change the number of readouts, or use_map=True"
            )
        logits = self.vocab_proj(tokens)
        return logits.reshape(*tokens.shape[:2], self.action_horizon, self.action_dim, self.vocab_size)

    def masked_loss(
        self, transformer_outputs: Mapping[str, TokenGroup], actions: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross-entropy, a mean over action dimensions; metrics `loss`, `accuracy` and `mse`, a sum, as upstream."""
        logits = self(transformer_outputs, train=train)
        labels = self.action_tokenizer(actions)
        entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        loss = readout.masked_mean(entropy, mask)
        best = jnp.argmax(logits, axis=-1)
        mse = readout.masked_mean(jnp.square(actions - self.action_tokenizer.decode(best)), mask)
        accuracy = readout.masked_mean(best == labels, mask)
        return loss, {"loss": loss, "mse": mse * self.action_dim, "accuracy": accuracy}

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
