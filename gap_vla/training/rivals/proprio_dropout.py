"""Dropout on the proprioceptive input: every number of the state by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from gap_vla.training.rivals.interface import PROBABILITY, Rival, with_proprio


@dataclasses.dataclass(frozen=True)
class ProprioDropout(Rival):
    """s_bwd ← m_bwd · s_bwd / (1 − probability) with m_bwd ~ Bernoulli(1 − probability).

    Args:
        probability: of dropping one number of one window step; the others are scaled up to keep the expectation.

    Source: Srivastava et al. 2014, Dropout, on the input layer.
    """

    probability: Annotated[float, PROBABILITY] = 0.3

    def batch(self, batch: Mapping[str, Any], step: int, seed: int) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step])

        def drop(proprio: np.ndarray) -> np.ndarray:
            return proprio * (rng.random(proprio.shape) >= self.probability) / (1 - self.probability)

        return with_proprio(batch, drop)
