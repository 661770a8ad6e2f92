"""Noise on the proprioceptive input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from gap_vla.core.typed_config import Bounds
from gap_vla.training.rivals.interface import Rival, with_proprio


@dataclasses.dataclass(frozen=True)
class ProprioNoise(Rival):
    """s ← s + std · ε with ε ~ N(0, 1), drawn for every number anew; the state is normalised to unit variance.

    Args:
        std: of the noise, in units of the state's own standard deviation.

    Source: Bishop 1995, Training with noise is equivalent to Tikhonov regularization.
    """

    std: Annotated[float, Bounds(0, 100, "standard deviations of the state")] = 0.3

    def batch(self, batch: Mapping[str, Any], step: int, seed: int) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step])
        return with_proprio(batch, lambda proprio: proprio + self.std * rng.standard_normal(proprio.shape))
