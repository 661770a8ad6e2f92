"""GAP that watches itself, an extension: λ and the width of ρ follow how much the policy relies on its pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import ConfigError
from gap_vla.policies.methods import Gap, masked_mean
from gap_vla.policies.registry import WINDOWS_AT_ONCE

EVERY = 50  # training steps from one measurement to the next
LEAST = 0.1  # λ while the policy does not look at all
WIDEST = 0.25  # the power of ρ meanwhile: 0.1 becomes 0.56
HALF = 0.5  # the share of vision at which it counts as recovered
IN_A_ROW = 3  # measurements of a recovered vision that end GAP; one that finds nothing relied on counts as the last did
LATEST = 0.75  # share of the training steps after which GAP ends in any case
LITTLE = 0.05  # of the loss: where both branches together are worth less, nothing is relied on yet


class GapWatched(Gap):
    """M6 with λ and ρ set from measured reliance, until vision has recovered.

    Every `EVERY` steps the loss on held-out windows in transitions (the dataset's ρ > 0.5) is measured as it is, and
    with the features of either branch replaced by their mean over these windows. What that costs is the reliance on the
    branch; s is the share of vision in both. With x = min(s / HALF, 1),

        λ = LEAST + (1 - LEAST) x       ρ becomes ρ ** (WIDEST + (1 - WIDEST) x)

    `adjustment.lam` and `adjustment.window` have no effect; `adjustment.mode` is `sample`.
    """

    heads = ("mlp", "diffusion")

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.share, self.recovered = 0.0, 0

    @property
    def progress(self) -> float:
        """x of the class."""
        return min(self.share / HALF, 1.0)

    def state(self) -> dict[str, float]:
        return {"share": self.share, "recovered": self.recovered}

    def restore(self, state: Mapping[str, float]) -> None:
        self.share, self.recovered = float(state["share"]), int(state["recovered"])

    def says(self, schedule: AdjustmentSchedule, length: str) -> str:
        rho = f"rho {self.rho_source} ({schedule.rho}) to the power {WIDEST:g} to 1"
        until = f"until vision has recovered, at most the first {LATEST:.0%} of {length}"
        return f"mode {schedule.mode}, lam {LEAST:g} to 1, {rho}, both by the share of vision, {until}"

    def check_held_out(self, held_out: Any, where: Any) -> None:
        if held_out is None or not len(held_out.transitions):
            raise ConfigError(
                f"{where}: no held-out step has rho above 0.5, and method gap_watched measures on such steps; "
                "hold out more episodes (data.val_fraction), annotate with a wider rho, or take method gap"
            )

    def before_step(self, trainer: Any, step: int) -> None:
        if step % EVERY == 0 and self.recovered < IN_A_ROW:
            generator = trainer.generator(step)
            self.share = share_of_vision(trainer.policy, trainer.held_out, generator, self.share, trainer.place)
            self.recovered = self.recovered + 1 if self.share >= HALF else 0
        window = 0.0 if self.recovered >= IN_A_ROW else LATEST
        lam = LEAST + (1 - LEAST) * self.progress
        trainer.adjustment.schedule = dataclasses.replace(trainer.schedule, lam=lam, window=window)

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        power = WIDEST + (1 - WIDEST) * self.progress
        return {**batch, **{key: batch[key] ** power for key in ("rho", "target_rho")}}

    def measurements(self) -> dict[str, float]:
        return {"gap/share_of_vision": self.share}


@torch.no_grad()
def share_of_vision(
    policy: Any, windows: Any, generator: torch.Generator, otherwise: float, place: Callable[[Any], Any] = lambda b: b
) -> float:
    """What silencing vision costs, as a share of what silencing either branch costs, on held-out transitions.

    Args:
        policy: a `gap_vla.policies.policy.SmallPolicy` of both branches.
        windows: `gap_vla.policies.windows.SmallWindows` of the held-out split.
        otherwise: the share where there is no transition, or where both together cost less than `LITTLE` of the loss.
        place: puts a batch where the policy is.
    """
    numbers = windows.transitions
    if not len(numbers):
        return otherwise
    batch = windows.gather(numbers[np.linspace(0, len(numbers) - 1, min(WINDOWS_AT_ONCE, len(numbers))).astype(int)])
    batch = place(batch)
    policy.eval()
    vision, proprio = policy.branch_features(batch)
    silent_vision, silent_proprio = (f.mean(0, keepdim=True).expand_as(f) for f in (vision, proprio))
    losses, drawn = [], generator.get_state()
    for pair in ((vision, proprio), (silent_vision, proprio), (vision, silent_proprio)):
        generator.set_state(drawn)  # what is subtracted has the same noise
        loss = policy.head.loss(policy.embed(*pair), batch["action"], generator)
        losses.append(float(masked_mean(loss, batch["action_pad_mask"])))
    policy.train()
    of_vision, of_proprio = (max(loss - losses[0], 0.0) for loss in losses[1:])
    both = of_vision + of_proprio
    return of_vision / both if both > LITTLE * losses[0] else otherwise
