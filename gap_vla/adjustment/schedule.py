"""How much the proprioceptive branch learns at a training step: M6 and M7 as three factors, free of any framework.

Every mode is three numbers that a training step takes as inputs, so that one compiled program serves them all:

    sample[b, w]   multiplies the gradient flowing back into the proprioceptive tokens of sample b, window step w
    gradient       multiplies the summed gradient of the proprioceptive parameters, before clipping
    update         multiplies the optimizer's update of these parameters, after its own normalisation

| mode            | sample             | gradient         | update | source                                     |
|-----------------|--------------------|------------------|--------|--------------------------------------------|
| `sample`        | 1 - rho[b, w]      | 1                | lam    | M6, the paper                              |
| `sample_lambda` | 1 - lam * rho[b,w] | 1                | 1      | M6 with lam as the depth of the adjustment |
| `batch`         | 1                  | 1 - lam*max(rho) | 1      | M7, the release; under Adam nearly a no-op |
| `constant`      | 1                  | 1                | constant | a slower branch, blind to phases         |
| `fixed`         | 1 - fixed_rho      | 1                | lam    | control; fixed_rho = 0 is "lam alone"      |
| `update`        | 1                  | 1                | *      | control; * lam * (1 - mean(rho))           |
| `none`          | 1                  | 1                | 1      | plain training                             |

Outside the window of training all three are exactly 1. Of a policy that predicts H actions at once, ρ may be that of
the steps which the actions are about, rho[b, w, h]: `chunk` scales the gradient of each action's loss by its own
factor, `chunk_max` the gradient of them all by that of the largest ρ.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.core.config import STRICT
from gap_vla.core.errors import EpisodeError

Share = Annotated[float, Field(ge=0, le=1)]


@dataclasses.dataclass(frozen=True)
class Factors:
    """What one training step multiplies with, on whatever device; see the table of this module."""

    sample: Any  # float32[B, W]; with rho="chunk" of the targets' shape, float32[B, W, H] or [B, H]
    gradient: Any  # float32
    update: Any  # float32


@dataclass(frozen=True, config=STRICT)
class AdjustmentSchedule:
    """When and how strongly the branch is slowed: as GAP does (M6). Method vp_slow takes `constant`, `window` alone.

    Example:
        >>> import numpy as np
        >>> schedule = AdjustmentSchedule(lam=0.3, window=0.5)
        >>> factors = schedule.factors(np.array([[0.25, 1.0]], np.float32), step=0, total_steps=10)
        >>> factors.sample.tolist(), round(float(factors.update), 2)
        ([[0.75, 0.0]], 0.3)
        >>> schedule.factors(np.array([[0.25, 1.0]], np.float32), step=5, total_steps=10).sample.tolist()
        [[1.0, 1.0]]
    """

    mode: Literal["sample", "sample_lambda", "batch", "constant", "fixed", "update", "none"] = "sample"
    """How ρ and λ act: the paper's `sample`, the release's `batch`, λ alone (`constant`), a variant or a control."""
    lam: Share = 0.3
    """λ of M6, a factor on the branch's update; 0.2 to 0.4 is stable in the paper."""
    constant: Share = 0.05
    """λ of mode `constant`."""
    window: Share = 0.5
    """Share of the training steps during which the branch is slowed, from the first on (paper: 50 of 100 epochs)."""
    rho: Literal["step", "current", "chunk", "chunk_max"] = "step"
    """`step`: each proprioceptive token has its own step's ρ (Octo); `current`: all have the window's last ρ, for a
    policy with one loss per window; `chunk`: each predicted action has the ρ of its own step; `chunk_max`: the largest
    ρ of these steps for all."""
    fixed_rho: Share = 0.5
    """The constant ρ of mode `fixed`."""

    @property
    def factor(self) -> float:
        """λ of the mode."""
        return self.constant if self.mode == "constant" else self.lam

    @property
    def needs_rho(self) -> bool:
        """Whether a dataset without ρ cannot be trained with this mode."""
        return self.mode in ("sample", "sample_lambda", "batch", "update")

    @property
    def of_targets(self) -> bool:
        """Whether ρ is that of the steps which the predicted actions are about, float[B, H] or [B, W, H]."""
        return self.mode not in ("none", "constant") and self.rho in ("chunk", "chunk_max")

    @property
    def per_action(self) -> bool:
        """Whether the loss of every action has a factor of its own."""
        return self.of_targets and self.rho == "chunk"

    def active(self, step: int, total_steps: int) -> bool:
        """Whether GAP acts at training step `step` (0-based) of `total_steps`."""
        return step < self.active_steps(total_steps)

    def active_steps(self, total_steps: int) -> int:
        """How many of `total_steps` GAP acts in, from the first on; a part of a step counts as one.

        >>> [AdjustmentSchedule(window=share).active_steps(100) for share in (0.07, 0.005)]
        [7, 1]
        >>> AdjustmentSchedule(window=5 / 7).active_steps(7)
        5
        """
        exact = round(self.window * total_steps, 9)  # 0.07 * 100 is a little more than 7
        return 0 if self.mode == "none" else math.ceil(exact)

    def factors(
        self,
        rho: Float[np.ndarray, "b *w"],
        step: int,
        total_steps: int,
        mask: Bool[np.ndarray, "b *w"] | None = None,
    ) -> Factors:
        """The three factors of one step.

        Args:
            rho: transition probability of every sample and window step, [B, W], or of every sample, [B], a window of
                one step; in [0, 1]. If it is `of_targets`: of every predicted action, [B, H] or [B, W, H].
            step: 0-based training step.
            total_steps: length of the training run.
            mask: of ρ's shape; False at padded window steps or actions, which count in no maximum and no mean.

        Raises:
            EpisodeError: ρ outside [0, 1] in the window of training.
        """
        given = rho = np.asarray(rho, np.float32)
        if self.of_targets and not self.per_action:
            if mask is not None:
                rho, mask = np.where(mask, rho, 0), np.asarray(np.any(mask, -1))
            rho = rho.max(-1)
        if not self.per_action:
            rho = rho.reshape(len(rho), -1)
        ones, one = np.ones(rho.shape, np.float32), np.float32(1)
        if not self.active(step, total_steps):
            return Factors(ones, one, one)
        within = (given >= 0) & (given <= 1)
        if not within.all():
            raise EpisodeError(
                f"rho is {given[~within][0]} at training step {step}, not in [0, 1]; annotate the data again"
            )
        if self.rho == "current":
            rho = np.broadcast_to(rho[:, -1:], rho.shape)
        lam = np.float32(self.factor)
        counted = rho if mask is None else rho[np.asarray(mask).reshape(rho.shape)]
        if self.mode == "sample":  # M6
            return Factors(1 - rho, one, lam)
        if self.mode == "sample_lambda":
            return Factors(1 - lam * rho, one, one)
        if self.mode == "constant":
            return Factors(ones, one, lam)
        if self.mode == "fixed":
            return Factors(ones * np.float32(1 - self.fixed_rho), one, lam)
        if self.mode == "update":
            return Factors(ones, one, np.float32(lam * (1 - counted.mean())))
        return Factors(ones, np.float32(1 - lam * counted.max()), one)  # M7


SLOWER = AdjustmentSchedule(mode="constant")
"""The default of `attach` and of trainings: chosen by the rule of docs/PROTOCOL_2.md."""
