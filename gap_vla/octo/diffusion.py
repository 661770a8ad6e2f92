"""The diffusion head (DDPM, Ho et al. 2020, with the cosine schedule of Nichol & Dhariwal 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gap_vla.octo.blocks import MAPHead
from gap_vla.octo.heads import ActionHead, continuous_loss, find_group, pool
from gap_vla.octo.token_groups import TokenGroup


def cosine_betas(steps: int, s: float = 0.008) -> Float[np.ndarray, "{steps}"]:
    """float32[steps]: clip(1 - f(i + 1) / f(i), 0, 0.999), f(i) = cos((i / steps + s) / (1 + s) * pi / 2)^2."""
    fraction = np.linspace(0, steps, steps + 1, dtype=np.float64) / steps
    f = np.cos((fraction + s) / (1 + s) * np.pi / 2) ** 2
    return np.clip(1 - f[1:] / f[:-1], 0, 0.999).astype(np.float32)


class DiffusionActionHead(ActionHead):
    """Learns the noise in a noisy chunk of actions, and denoises from pure noise to act.

    Attributes:
        loss_type: see `ContinuousActionHead`.
        max_action: bound of actions, in normalised units; targets and every iterate are clipped to it.
        time_dim, num_blocks, dropout_rate, hidden_dim, use_layer_norm: the noise network.
        diffusion_steps: T, noise levels in training and steps in sampling.
        n_diffusion_samples: noise draws per example in the loss; they share the transformer's forward pass.
    """

    max_action: float = 5.0
    loss_type: str = "mse"
    time_dim: int = 32
    num_blocks: int = 3
    dropout_rate: float = 0.0
    hidden_dim: int = 256
    use_layer_norm: bool = True
    diffusion_steps: int = 20
    n_diffusion_samples: int = 1

    def setup(self) -> None:
        self.map_head = MAPHead() if self.use_map else None
        width = self.action_horizon * self.action_dim
        network = MLPResNet(
            self.num_blocks, width, self.dropout_rate, self.hidden_dim, self.use_layer_norm, parent=None
        )
        self.diffusion_model = ScoreActor(self.time_dim, network)
        self.betas = cosine_betas(self.diffusion_steps)
        self.alphas = (1 - self.betas).astype(np.float32)
        self.alpha_hats = np.cumprod(self.alphas, dtype=np.float32)

    def __call__(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        time: jax.Array | None = None,
        noisy_actions: jax.Array | None = None,
        train: bool = True,
    ) -> jax.Array:
        """Predicted noise, float32[..., B, W, H * A].

        Args:
            time: int[..., B, W, 1], the noise level of each chunk; may be left out while initialising only.
            noisy_actions: float32[..., B, W, H * A].
        """
        group = find_group(transformer_outputs, self.readout_key)
        embedding = pool(group, self.map_head, train)
        if time is None or noisy_actions is None:
            width = self.action_horizon * self.action_dim
            time = jnp.zeros((*embedding.shape[:2], 1), jnp.float32)
            noisy_actions = jnp.zeros((*embedding.shape[:2], width), jnp.float32)
        return self.diffusion_model(embedding, noisy_actions, time, train=train)

    def masked_loss(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        actions: jax.Array,
        mask: jax.Array,
        train: bool,
        weight: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Of the predicted noise; draws from the random stream `"dropout"`, with train=False too."""
        flat = actions.reshape(*actions.shape[:2], -1).clip(-self.max_action, self.max_action)
        time_key, noise_key = jax.random.split(self.make_rng("dropout"))
        samples = (self.n_diffusion_samples, *flat.shape[:2])
        time = jax.random.randint(time_key, (*samples, 1), 0, self.diffusion_steps)
        noise = jax.random.normal(noise_key, (*samples, flat.shape[-1]))
        alpha_hat = jnp.asarray(self.alpha_hats)[time]
        noisy = jnp.sqrt(alpha_hat) * flat + jnp.sqrt(1 - alpha_hat) * noise

        predicted = self(transformer_outputs, time=time, noisy_actions=noisy, train=train)
        mask, weight = mask.reshape(flat.shape), None if weight is None else weight.reshape(flat.shape)
        return continuous_loss(predicted, noise, mask, self.loss_type, self.action_dim, weight)

    def predict_action(
        self,
        transformer_outputs: Mapping[str, TokenGroup],
        rng: jax.Array,
        train: bool = True,
        embodiment_action_dim: int | None = None,
        *args: Any,
        sample_shape: Sequence[int] = (),
        **kwargs: Any,
    ) -> Float[Array, "*sample B H A"]:
        """float32[*sample_shape, B, H, A] of the last window step.

        Args:
            rng: key of all noise. Noise is drawn for every window step, as upstream, though only the last is returned.
            embodiment_action_dim: entries of an action beyond it stay noise of the current level, as in training
                on data with fewer dimensions; None uses all.
        """
        group = find_group(transformer_outputs, self.readout_key)
        embedding = pool(group, self.map_head, train)[:, -1]
        network, variables = self.diffusion_model.unbind()
        used = self.action_dim if embodiment_action_dim is None else embodiment_action_dim
        is_used = jnp.tile(jnp.arange(self.action_dim) < used, self.action_horizon)
        betas, alphas, alpha_hats = map(jnp.asarray, (self.betas, self.alphas, self.alpha_hats))

        width = self.action_horizon * self.action_dim
        shape = (*sample_shape, *group.tokens.shape[:2], width)

        def draw(key: jax.Array) -> jax.Array:
            return jax.random.normal(key, shape)[..., -1, :]

        rng, key = jax.random.split(rng)
        start = draw(key)

        def denoise(carry: tuple[jax.Array, jax.Array], time: jax.Array) -> tuple[tuple, None]:
            x, rng = carry
            levels = jnp.broadcast_to(time, (*x.shape[:-1], 1))
            eps: Any = network.apply(variables, embedding, x, levels, train=train)
            alpha, alpha_hat = alphas[time], alpha_hats[time]
            x = (x - (1 - alpha) / jnp.sqrt(1 - alpha_hat) * eps) / jnp.sqrt(alpha)
            rng, key = jax.random.split(rng)
            z = draw(key)
            x = jnp.clip(x + (time > 0) * jnp.sqrt(betas[time]) * z, -self.max_action, self.max_action)
            x = jnp.where(is_used, x, jnp.sqrt(1 - alpha_hat) * z)
            return (x, rng), None

        (x, _), _ = jax.lax.scan(denoise, (start, rng), jnp.arange(self.diffusion_steps - 1, -1, -1))
        return x.reshape(*x.shape[:-1], self.action_horizon, self.action_dim)


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

    time_dim: int
    reverse_network: MLPResNet

    def setup(self) -> None:
        self.time_preprocess = FourierFeatures(self.time_dim)
        self.cond_encoder = TimeEncoder(self.time_dim)

    def __call__(self, embedding: jax.Array, actions: jax.Array, time: jax.Array, train: bool = False) -> jax.Array:
        encoded = self.cond_encoder(self.time_preprocess(time.astype(jnp.float32)))
        embedding = jnp.broadcast_to(embedding, (*actions.shape[:-1], embedding.shape[-1]))
        return self.reverse_network(jnp.concatenate([encoded, embedding, actions], axis=-1), train)
