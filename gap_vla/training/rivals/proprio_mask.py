"""Masking: the whole proprioception of a sample is hidden now and then."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from gap_vla.training.rivals.interface import PROBABILITY, Rival, with_proprio


@dataclasses.dataclass(frozen=True)
class ProprioMask(Rival):
    """s_b ← m_b · s_b with m_b ~ Bernoulli(1 − probability), one draw for a sample's whole window.

    The normalised state is 0 where it is hidden: its mean. At test time nothing is hidden.

    Args:
        probability: of hiding.

    Source: the baseline "Mask" of the GAP paper (arXiv 2602.12032); modality dropout, Neverova et al. 2016
    (arXiv 1501.00102).
    """

    probability: Annotated[float, PROBABILITY] = 0.5

    def batch(self, batch: Mapping[str, Any], step: int, seed: int) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step])

        def hide(proprio: np.ndarray) -> np.ndarray:
            return proprio * (rng.random(len(proprio)) >= self.probability)[:, None, None]

        return with_proprio(batch, hide)
