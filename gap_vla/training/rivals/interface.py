"""What a rival may do: change the batch, scale GAP's branch, or modulate the branches' gradients and updates."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.typed_config import Bounds, check_numbers

PROBABILITY = Bounds(0, 0.999, "something must be left")


@dataclasses.dataclass(frozen=True)
class Rival:
    """A method that changes nothing; the others override one part of it."""

    modulates = False
    """Whether `adjust` is called at every step."""

    def __post_init__(self) -> None:
        check_numbers(self, "rival")

    @property
    def schedule(self) -> AdjustmentSchedule:
        """Constant factors on the proprioceptive branch, in GAP's own terms."""
        return AdjustmentSchedule(mode="none")

    def batch(self, batch: Mapping[str, Any], step: int, seed: int) -> Mapping[str, Any]:
        """What the training step sees instead of `batch`; the same for the same step and seed, so a run can resume."""
        return batch

    def init(self) -> dict[str, Any]:
        """What `adjust` remembers from step to step, as arrays."""
        return {}

    def adjust(
        self,
        memory: dict[str, Any],
        gradients: dict[str, Any],
        loss_of: Callable[[Mapping[str, Any]], Any],
        batch: Mapping[str, Any],
        rng: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Called within the compiled step when `modulates`.

        Args:
            gradients: packed vectors, `<branch>/<kind>` (`gap_vla.training.packing`).
            loss_of: loss of a batch with the parameters before the step, without dropout.

        Returns:
            The gradients, a factor on the optimizer's update of some branches, and the new memory.
        """
        return gradients, {}, memory


def with_proprio(batch: Mapping[str, Any], change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """The batch with another `observation/proprio`; nothing of the given one is written to."""
    observation = copy.copy(dict(batch["observation"]))
    observation["proprio"] = change(np.asarray(observation["proprio"])).astype(np.float32)
    return {**batch, "observation": observation}
