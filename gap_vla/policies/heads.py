"""Action heads: `Head(config, input_dim, action_dim)` with

loss(feature float[B, D], action float[B, H, A], generator) -> float[B, H], one loss per predicted step
predict(feature float[B, D], generator) -> float[B, H, A]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders import mlp

Feature = Float[torch.Tensor, "b d"]
Chunk = Float[torch.Tensor, "b h a"]
Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the whole batch, one for every sample, or None for torch's own."""

STEPS = 20
TIME_FEATURES = 32
LARGEST_ACTION = 5.0  # predictions of the clean, normalised chunk are clipped to this, as in Octo
MODES = 5
LEAST_STD = 0.01  # of normalised actions; without a floor, dimensions that never vary would take over the loss


class MLPHead(nn.Module):
    """The paper's head: hidden layers with ReLU, then all actions of the chunk at once; mean squared error."""

    samples = False

    def __init__(self, config: SmallModelConfig, input_dim: int, action_dim: int):
        super().__init__()
        self.shape = (config.action_horizon, action_dim)
        self.layers = mlp(input_dim, config.head_dim, config.head_layers, config.action_horizon * action_dim)

    def predict(self, feature: Feature, generator: object = None) -> Chunk:
        return self.layers(feature).unflatten(-1, self.shape)

    def loss(self, feature: Feature, action: Chunk, generator: object = None) -> Float[torch.Tensor, "b h"]:
        return (self.predict(feature) - action).square().mean(-1)


class DiffusionHead(nn.Module):
    """DDPM (Ho et al., 2020): predicts the noise in the chunk, which is removed in `STEPS` steps.

    The schedule is the squared cosine (Nichol and Dhariwal, 2021).
    """

    samples = True
    alpha: torch.Tensor
    alpha_bar: torch.Tensor

    def __init__(self, config: SmallModelConfig, input_dim: int, action_dim: int):
        super().__init__()
        self.shape = (config.action_horizon, action_dim)
        size = config.action_horizon * action_dim
        self.layers = mlp(input_dim + size + TIME_FEATURES, config.head_dim, config.head_layers, size)
        grid = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
        kept = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
        self.register_buffer("alpha", (1 - beta).float(), persistent=False)
        self.register_buffer("alpha_bar", torch.cumprod(1 - beta, 0).float(), persistent=False)

    def loss(self, feature: Feature, action: Chunk, generator: Generators = None) -> Float[torch.Tensor, "b h"]:
        batch = len(action)
        clock = generator if isinstance(generator, torch.Generator) else None
        step = torch.randint(STEPS, (batch,), generator=clock).to(action.device)
        noise = normal(tuple(action.shape), action, generator)
        kept = self.alpha_bar[step][:, None, None]
        noisy = kept.sqrt() * action + (1 - kept).sqrt() * noise
        return (self._noise(feature, noisy, step) - noise).square().mean(-1)

    @torch.no_grad()
    def predict(self, feature: Feature, generator: Generators = None) -> Chunk:
        batch = len(feature)
        shape = (batch, *self.shape)
        chunk = normal(shape, feature, generator)
        for index in reversed(range(STEPS)):
            step = torch.full((batch,), index, device=feature.device)
            alpha, bar = self.alpha[index], self.alpha_bar[index]
            clean = (chunk - (1 - bar).sqrt() * self._noise(feature, chunk, step)) / bar.sqrt()
            clean = clean.clamp(-LARGEST_ACTION, LARGEST_ACTION)
            if index == 0:
                return clean
            before = self.alpha_bar[index - 1]
            mean = (before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - before) * chunk) / (1 - bar)
            spread = ((1 - before) / (1 - bar) * (1 - alpha)).sqrt()
            chunk = mean + spread * normal(shape, feature, generator)
        return chunk

    def _noise(self, feature: torch.Tensor, chunk: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(
            torch.arange(TIME_FEATURES // 2, dtype=torch.float32, device=step.device) * (-math.log(1000.0) / 15)
        )
        angle = step[:, None] * rates
        inputs = torch.cat([feature, chunk.flatten(1), angle.sin(), angle.cos()], -1)
        return self.layers(inputs).unflatten(-1, self.shape)


class GMMHead(nn.Module):
    """robomimic's BC-GMM: per predicted step `MODES` diagonal Gaussians and their weights.

    The loss is the negative log-likelihood; the likeliest mode's mean is executed.
    """

    samples = False

    def __init__(self, config: SmallModelConfig, input_dim: int, action_dim: int):
        super().__init__()
        self.horizon, self.action_dim = config.action_horizon, action_dim
        outputs = config.action_horizon * MODES * (2 * action_dim + 1)
        self.layers = mlp(input_dim, config.head_dim, config.head_layers, outputs)

    def _mixture(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        raw = self.layers(feature).unflatten(-1, (self.horizon, MODES, 2 * self.action_dim + 1))
        mean, spread = raw[..., : self.action_dim], raw[..., self.action_dim : -1]
        return raw[..., -1], mean, functional.softplus(spread) + LEAST_STD

    def predict(self, feature: Feature, generator: object = None) -> Chunk:
        logits, mean, _ = self._mixture(feature)
        mode = logits.argmax(-1)[..., None, None].expand(*mean.shape[:2], 1, self.action_dim)
        return mean.gather(2, mode).squeeze(2)

    def loss(self, feature: Feature, action: Chunk, generator: object = None) -> Float[torch.Tensor, "b h"]:
        logits, mean, std = self._mixture(feature)
        distance = ((action[:, :, None] - mean) / std).square()
        density = -0.5 * (distance + math.log(2 * math.pi)) - std.log()
        return -torch.logsumexp(logits.log_softmax(-1) + density.sum(-1), -1)


def normal(shape: tuple[int, ...], like: torch.Tensor, generators: Generators) -> torch.Tensor:
    """float32 noise of `shape` on the device of `like`, the same on every device.

    With one generator per sample each draws its own row, whoever else is in the batch.
    """
    if generators is None or isinstance(generators, torch.Generator):
        where = generators.device if generators else "cpu"  # whatever the default device of a program is
        return torch.randn(shape, generator=generators, dtype=torch.float32, device=where).to(like.device)
    drawn = [torch.randn(shape[1:], generator=one, dtype=torch.float32, device=one.device) for one in generators]
    return torch.stack(drawn).to(like.device)
