"""Discretisation of continuous values into bins (no parameters)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_EPS = 1e-6


class BinTokenizer(nn.Module):
    """Values to bin numbers and back.

    Attributes:
        n_bins: number of bins.
        bin_type: `"uniform"` cuts [low, high] into equal bins and clips values into it; `"normal"` takes the
            quantiles of the standard normal distribution and ignores `low` and `high`.

    A value that no bin holds (NaN, or far outside the normal quantiles) gets bin 0, also when it is large: upstream's
    behaviour, which published heads were trained with.
    """

    n_bins: int = 256
    bin_type: str = "uniform"
    low: float = 0.0
    high: float = 1.0

    def thresholds(self) -> Float[np.ndarray, "n_bins+1"]:
        """float32[n_bins + 1], the ends of the bins."""
        if self.bin_type == "uniform":
            return np.linspace(self.low, self.high, self.n_bins + 1, dtype=np.float32)
        if self.bin_type == "normal":
            with jax.ensure_compile_time_eval():  # also inside of jit, where every array would be a tracer
                quantiles = jnp.linspace(_EPS, 1 - _EPS, self.n_bins + 1)
                return np.asarray(jax.scipy.stats.norm.ppf(quantiles), np.float32)
        raise ValueError(f"bin_type must be 'uniform' or 'normal', found {self.bin_type!r}")

    def __call__(self, values: Float[Array, "..."]) -> Int[Array, "..."]:
        """int32 of the shape of `values`: the bin of each."""
        thresholds = self.thresholds()
        if self.bin_type == "uniform":
            values = jnp.clip(values, self.low + _EPS, self.high - _EPS)
        values = values[..., None]
        inside = (values >= thresholds[:-1]) & (values < thresholds[1:])
        return jnp.argmax(inside, axis=-1).astype(jnp.int32)

    def decode(self, bins: Int[Array, "..."]) -> Float[Array, "..."]:
        """float32 of the shape of `bins`: the middle of each bin."""
        thresholds = self.thresholds()
        middles = (thresholds[1:] + thresholds[:-1]) / 2
        return jnp.asarray(middles)[bins]
