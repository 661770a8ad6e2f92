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
| `fixed`         | 1 - fixed_rho      | 1                | lam    | control; fixed_rho = 0 is "lam alone"      |
| `update`        | 1                  | 1                | *      | control; * lam * (1 - mean(rho))           |
| `none`          | 1                  | 1                | 1      | plain training                             |

Outside the window of training all three are exactly 1.
"""

from __future__ import annotations

import dataclasses
import operator
import warnings
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import whole
from gap_vla.core.typed_config import STEPS, Bounds, check_numbers, choose

MODES = ("sample", "sample_lambda", "batch", "fixed", "update", "none")
RHO_OF_WINDOW = ("step", "current")


class AdjustmentError(UserError, ValueError):
    """Gradients that cannot be adjusted as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Factors:
    """What one training step multiplies with, on whatever device; see the table of this module."""

    sample: Any  # float32[B, W]
    gradient: Any  # float32
    update: Any  # float32


@dataclasses.dataclass(frozen=True)
class AdjustmentSchedule:
    """When and how strongly GAP acts.

    Args:
        mode: one of `MODES`.
        lam: λ of M6 as a factor on the group's update (0.2 to 0.4 is stable in the paper).
        window: fraction of the training steps during which GAP acts, from the first step on (paper: 50 of 100 epochs).
        rho: `"step"`: every proprioceptive token is scaled by its own step's ρ (Octo, whose readouts sit at every
            step); `"current"`: the window's last ρ for all (one loss per window, as in the release).
        fixed_rho: the constant ρ of mode `fixed`.

    Raises:
        ConfigError: unknown mode or a value outside [0, 1].

    Example:
        >>> import numpy as np
        >>> schedule = AdjustmentSchedule(lam=0.3, window=0.5)
        >>> factors = schedule.factors(np.array([[0.25, 1.0]], np.float32), step=0, total_steps=10)
        >>> factors.sample.tolist(), round(float(factors.update), 2)
        ([[0.75, 0.0]], 0.3)
        >>> schedule.factors(np.array([[0.25, 1.0]], np.float32), step=5, total_steps=10).sample.tolist()
        [[1.0, 1.0]]
    """

    mode: str = "sample"
    lam: Annotated[float, Bounds(0, 1, "a factor that slows down")] = 0.3
    window: Annotated[float, Bounds(0, 1, "share of the training steps")] = 0.5
    rho: str = "step"
    fixed_rho: Annotated[float, Bounds(0, 1, "a probability")] = 0.5

    def __post_init__(self) -> None:
        choose(self.mode, MODES, "adjustment.mode")
        choose(self.rho, RHO_OF_WINDOW, "adjustment.rho")
        check_numbers(self, "adjustment")

    @property
    def needs_rho(self) -> bool:
        """Whether a dataset without ρ cannot be trained with this mode."""
        return self.mode in ("sample", "sample_lambda", "batch", "update")

    def active(self, step: int, total_steps: int) -> bool:
        """Whether GAP acts at training step `step` (0-based) of `total_steps`.

        Raises:
            AdjustmentError: a step that is no whole number from 0, or no steps in all.
        """
        return _counted("the training step", step, 0) < self.active_steps(total_steps)

    def active_steps(self, total_steps: int) -> int:
        """How many of `total_steps` GAP acts in, from the first on; a part of a step counts as one.

        >>> [AdjustmentSchedule(window=share).active_steps(100) for share in (0.07, 0.005)]
        [7, 1]
        >>> AdjustmentSchedule(window=5 / 7).active_steps(7)
        5
        """
        steps = _counted("total_steps", total_steps, 1)
        above, below = self.window.as_integer_ratio()  # rounded, perhaps up: 0.07 * 100 is more than 7
        return 0 if self.mode == "none" else -(-above * (2**51 - 1) * steps // (below * 2**51))

    def factors(
        self,
        rho: Float[np.ndarray, "b *w"],
        step: int,
        total_steps: int,
        timestep_pad_mask: Bool[np.ndarray, "b w"] | None = None,
    ) -> Factors:
        """The three factors of one step.

        Args:
            rho: transition probability of every sample and window step, [B, W], or of every sample, [B], which is a
                window of one step; in [0, 1].
            step: 0-based training step.
            total_steps: length of the training run.
            timestep_pad_mask: False at padded window steps, which count in no statistic (maximum, mean).

        Raises:
            AdjustmentError: ρ outside [0, 1], NaN, masked or of another shape, a mask that is not bool of ρ's shape or
                leaves nothing, or a step that cannot be.
        """
        masked, rho = np.ma.is_masked(rho), np.asarray(rho)
        if str(rho.dtype) in ("bfloat16", "float16"):  # the first, of JAX, numpy does not count among its numbers
            rho = rho.astype(np.float32)
        of_windows = rho.ndim and sum(size > 1 for size in rho.shape[1:]) < 2
        if masked or not of_windows or rho.dtype.kind not in "biuf" or not rho.size:
            found = "masked" if masked else f"{rho.dtype}{[*rho.shape]}"
            raise AdjustmentError(f"rho at training step {step} is {found}; give numbers of shape [B] or [B, W]")
        rho = rho.reshape(len(rho), -1)
        counts = np.ones(rho.shape, bool) if timestep_pad_mask is None else np.asarray(timestep_pad_mask)
        if counts.dtype != bool or counts.shape != rho.shape or not counts.any():
            found = f"{counts.dtype}{[*counts.shape]} and marks {np.count_nonzero(counts)} steps"
            raise AdjustmentError(f"timestep_pad_mask is {found}; it must be bool{[*rho.shape]} and mark one or more")
        ones, active = np.ones(rho.shape, np.float32), self.active(step, total_steps)
        if step > total_steps:  # the number of the last step and one is that of a look after training
            warnings.warn(
                f"training step {step} of a run of {total_steps} steps: GAP's window is a share of these; "
                "was total_steps counted in epochs?",
                stacklevel=2,
            )
        if not active:
            return Factors(ones, np.float32(1), np.float32(1))
        if not ((rho >= 0) & (rho <= 1)).all():
            bad = rho[~((rho >= 0) & (rho <= 1))][0]
            raise AdjustmentError(
                f"rho is {bad} at training step {step}; it must lie in [0, 1]: annotate the dataset again"
            )
        if self.rho == "current":
            rho = np.broadcast_to(rho[:, -1:], rho.shape)
        lam = np.float32(self.lam)
        if self.mode == "sample":  # M6
            return Factors((1 - rho).astype(np.float32), np.float32(1), lam)
        if self.mode == "sample_lambda":
            return Factors((1 - lam * rho).astype(np.float32), np.float32(1), np.float32(1))
        if self.mode == "fixed":
            return Factors(ones * np.float32(1 - self.fixed_rho), np.float32(1), lam)
        counted = rho[counts]
        if self.mode == "update":
            return Factors(ones, np.float32(1), np.float32(lam * (1 - counted.mean())))
        return Factors(ones, np.float32(1 - lam * counted.max()), np.float32(1))  # M7


def _counted(what: str, value: Any, least: int) -> int:
    try:
        if least <= (number := operator.index(value)) <= STEPS:
            return number
        return whole(what, number, least, STEPS, AdjustmentError)
    except TypeError:
        raise AdjustmentError(f"{what} is {value!r:.60}; count whole steps from {least}") from None
