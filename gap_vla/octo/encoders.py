"""Image encoders: from stacked camera frames to a grid of patch features.

Their convolutions have standardised weights, and a formulation that XLA's CPU backend runs fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gap_vla.core.config import choose


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any) -> jax.Array:
    """Convolution of float[B, h, w, c] with float[kh, kw, c, f]; padding as `jax.lax.conv_general_dilated`.

    Strides as large as the kernel, without padding, make it one matrix product over flattened patches.
    """
    size = strides[0]
    if kernel.shape[:2] == tuple(strides) == (size, size) and not any(map(any, padding)):
        return patches(x, size) @ kernel.reshape(-1, kernel.shape[-1])
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def patches(x: jax.Array, size: int) -> jax.Array:
    """float[B, h, w, c] to float[B, h / size, w / size, size * size * c]; what does not fill a patch is cut off."""
    batch, rows, columns, channels = len(x), x.shape[1] // size, x.shape[2] // size, x.shape[-1]
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, size * size * channels)


class StdConv(nn.Module):
    """Convolution whose kernel is standardised at every call; the stored kernel is the raw one.

    Attributes:
        standard: False uses the raw kernel.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Any
    dtype: Any = jnp.float32
    standard: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if self.standard:  # zero mean and unit deviation per output channel; 1e-5 is added to the deviation itself
            kernel = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
            kernel = kernel / (kernel.std(axis=(0, 1, 2), keepdims=True) + 1e-5)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding)
        return y + bias.astype(self.dtype)


def embedding(features: int, size: int, dtype: Any) -> StdConv:
    """One linear map per patch of `size` × `size`."""
    none = ((0, 0), (0, 0))
    return StdConv(features, (size, size), (size, size), none, dtype, standard=False, name="embedding")


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize_images(images: jax.Array, img_norm_type: str = "default") -> jax.Array:
    """uint8[..., c] to float32: `"default"` gives x / 127.5 - 1, `"imagenet"` its means and deviations (c = 3k)."""
    images = images.astype(jnp.float32)
    if choose(img_norm_type, ("default", "imagenet"), "img_norm_type") == "default":
        return images / 127.5 - 1.0
    frames = images.shape[-1] // 3
    mean, std = np.tile(_IMAGENET_MEAN, frames), np.tile(_IMAGENET_STD, frames)
    return (images / 255.0 - mean.astype(np.float32)) / std.astype(np.float32)


class FilmConditioning(nn.Module):
    """x * (1 + Dense_0(c)) + Dense_1(c), both zero at initialisation: float[B, h, w, f] and float[B, E]."""

    @nn.compact
    def __call__(self, x: jax.Array, conditioning: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        scale = nn.Dense(x.shape[-1], kernel_init=zeros)(conditioning)
        shift = nn.Dense(x.shape[-1], kernel_init=zeros)(conditioning)
        return x * (1 + scale[:, None, None, :]) + shift[:, None, None, :]


class PatchEncoder(nn.Module):
    """One linear map per patch: uint8[B, h, w, c] to float[B, h / patch, w / patch, num_features]."""

    use_film: bool = False
    patch_size: int = 32
    num_features: int = 512
    img_norm_type: str = "default"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True, cond_var: jax.Array | None = None) -> jax.Array:
        x = normalize_images(images, self.img_norm_type)
        x = embedding(self.num_features, self.patch_size, self.dtype)(x)
        return _film(self.use_film, x, cond_var)


class SmallStem(PatchEncoder):
    """Strided, weight-standardised convolutions, then one linear map per patch.

    uint8[B, h, w, c] to float[B, h', w', num_features]. The fields of the stages have one entry per stage; a stage
    halves the image, so a `patch_size` of 16 leaves a 1x1 map after the four default stages.
    """

    kernel_sizes: Sequence[int] = (3, 3, 3, 3)
    strides: Sequence[int] = (2, 2, 2, 2)
    features: Sequence[int] = (32, 96, 192, 384)
    padding: Sequence[int] = (1, 1, 1, 1)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True, cond_var: jax.Array | None = None) -> jax.Array:
        x = normalize_images(images, self.img_norm_type)
        for kernel, stride, features, padding in zip(self.kernel_sizes, self.strides, self.features, self.padding):
            x = StdConv(
                features=features,
                kernel_size=(kernel, kernel),
                strides=(stride, stride),
                padding=((padding, padding), (padding, padding)),
                dtype=self.dtype,
            )(x)
            x = nn.relu(nn.GroupNorm(dtype=self.dtype)(x))
        x = embedding(self.num_features, self.patch_size // 16, self.dtype)(x)
        return _film(self.use_film, x, cond_var)


class SmallStem16(SmallStem):
    """`SmallStem` with one token per 16x16 pixels, the encoder of the published 1.5 models."""

    patch_size: int = 16


class SmallStem32(SmallStem):
    """`SmallStem` with one token per 32x32 pixels."""


def _film(use_film: bool, x: jax.Array, conditioning: jax.Array | None) -> jax.Array:
    assert use_film == (conditioning is not None), "use_film goes with the tokenizer's task_film_keys"
    return x if conditioning is None else FilmConditioning()(x, conditioning)
