"""The network of the diffusion head: noisy action, noise level and embedding in, noise out."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class FourierFeatures(nn.Module):
    """float[..., 1] to float[..., size]: cosines, then sines, of learned frequencies."""

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(0.2), (self.size // 2, x.shape[-1]))
        phase = 2 * jnp.pi * x @ kernel.T
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


class TimeEncoder(nn.Module):
    """Two dense layers of the widths 2 * size and size, swish between them."""

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.xavier_uniform()
        x = nn.swish(nn.Dense(2 * self.size, kernel_init=init, name="Dense_0")(x))
        return nn.Dense(self.size, kernel_init=init, name="Dense_1")(x)


class MLPResNetBlock(nn.Module):
    """x + Dense(swish(Dense(LN(dropout(x))))), the hidden layer four times as wide."""

    dropout_rate: float
    use_layer_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        hidden = x
        if self.dropout_rate > 0:
            hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=not train)
        if self.use_layer_norm:
            hidden = nn.LayerNorm()(hidden)
        hidden = nn.swish(nn.Dense(4 * x.shape[-1])(hidden))
        return x + nn.Dense(x.shape[-1])(hidden)


class MLPResNet(nn.Module):
    """Dense to `hidden_dim`, residual blocks, swish, Dense to `out_dim`."""

    num_blocks: int
    out_dim: int
    dropout_rate: float
    hidden_dim: int
    use_layer_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(self.hidden_dim, kernel_init=init, name="Dense_0")(x)
        for _ in range(self.num_blocks):
            x = MLPResNetBlock(self.dropout_rate, self.use_layer_norm)(x, train)
        return nn.Dense(self.out_dim, kernel_init=init, name="Dense_1")(nn.swish(x))


class ScoreActor(nn.Module):
    """eps(embedding, noisy action, t): float[..., out_dim] from float[..., D], float[..., out_dim], float[..., 1]."""

    out_dim: int
    time_dim: int
    num_blocks: int
    dropout_rate: float
    hidden_dim: int
    use_layer_norm: bool

    def setup(self) -> None:
        self.time_preprocess = FourierFeatures(self.time_dim)
        self.cond_encoder = TimeEncoder(self.time_dim)
        self.reverse_network = MLPResNet(
            self.num_blocks, self.out_dim, self.dropout_rate, self.hidden_dim, self.use_layer_norm
        )

    def __call__(self, embedding: jax.Array, actions: jax.Array, time: jax.Array, train: bool = False) -> jax.Array:
        encoded = self.cond_encoder(self.time_preprocess(time.astype(jnp.float32)))
        embedding = jnp.broadcast_to(embedding, (*actions.shape[:-1], embedding.shape[-1]))
        return self.reverse_network(jnp.concatenate([encoded, embedding, actions], axis=-1), train)
