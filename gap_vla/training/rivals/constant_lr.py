"""A constant learning rate of the proprioceptive branch: GAP's λ without its ρ and without its end."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.typed_config import Bounds
from gap_vla.training.rivals.interface import Rival


@dataclasses.dataclass(frozen=True)
class ConstantLearningRate(Rival):
    """ω_s ← ω_s − factor · η · u_s during all of training, u_s the optimizer's normalised direction.

    It is M6 with ρ = 0 and a window of 1; weight decay is not scaled.

    Args:
        factor: on the branch's learning rate, in [0, 1].

    Source: the usual per-group learning rates of optimizers; here the control for M6.
    """

    factor: Annotated[float, Bounds(0, 1, "a factor that slows down")] = 0.3

    @property
    def schedule(self) -> AdjustmentSchedule:
        return AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=self.factor, window=1.0)
