"""How a model computes: parameters and checkpoints stay as they are, results too but for rounding and dropout's draws.

A stack of equal layers runs unrolled or as one loop, which compiles one layer instead of all. The parameters keep
upstream's layout, one sub-tree per layer: they are stacked inside the compiled step, so that neither checkpoints nor
optimizer states nor interceptors see a difference.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Compute:
    """Options of the implementation, chosen at load time and never written into a checkpoint's config.

    Attributes:
        dtype: arithmetic of encoders and transformers; parameters stay float32. bfloat16 pays on accelerators only.
        scan_layers: trace and compile one transformer layer and loop over it, which copies the layers' parameters and
            gradients at every step. None means from 24 layers on, and with `remat`: with 12 layers it saves only a
            second or two of compilation, but without a loop XLA does little of what `remat` asks for on a CPU.
        remat: recompute each layer's activations in the backward pass: less memory, about a third more time.
    """

    dtype: Any = jnp.float32
    scan_layers: bool | None = None
    remat: bool = False

    def scans(self, num_layers: int) -> bool:
        """Whether a stack of `num_layers` is looped over."""
        return (self.remat or num_layers >= 24) if self.scan_layers is None else self.scan_layers
