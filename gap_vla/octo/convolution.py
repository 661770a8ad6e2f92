"""Convolutions with weight standardisation, and a formulation of them that XLA's CPU backend runs fast."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


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


def standardize(kernel: jax.Array) -> jax.Array:
    """Zero mean and unit standard deviation per output channel; 1e-5 is added to the deviation, not to the variance."""
    centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
    return centred / (centred.std(axis=(0, 1, 2), keepdims=True) + 1e-5)


class StdConv(nn.Module):
    """Convolution whose kernel is standardised at every call; the stored kernel is the raw one."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        kernel = standardize(kernel).astype(self.dtype)
        return convolve(x.astype(self.dtype), kernel, self.strides, self.padding) + bias.astype(self.dtype)


class PatchConv(nn.Module):
    """Convolution whose stride is its kernel size, so that it is one matrix product over flattened patches."""

    features: int
    patch_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, channels = self.patch_size, x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (size, size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        product = patches(x.astype(self.dtype), size) @ kernel.astype(self.dtype).reshape(-1, self.features)
        return product + bias.astype(self.dtype)
