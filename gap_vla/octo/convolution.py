"""Convolutions with weight standardisation, and a formulation of them that XLA's CPU backend runs fast."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any) -> jax.Array:
    """Convolution of float[B, h, w, c] with float[kh, kw, c, f]; padding as `jax.lax.conv_general_dilated`."""
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


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
        batch, rows, columns = len(x), x.shape[1] // size, x.shape[2] // size
        x = x[:, : rows * size, : columns * size].astype(self.dtype)
        x = x.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows, columns, size * size * channels)
        return x @ kernel.astype(self.dtype).reshape(-1, self.features) + bias.astype(self.dtype)
