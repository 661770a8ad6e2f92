"""GradNorm between the branches of one model: weights that bring the gradient norms together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax.numpy as jnp

from gap_vla.core.typed_config import Bounds
from gap_vla.training.packing import branch_norms
from gap_vla.training.rivals.interface import Rival

BALANCED = ("vision", "proprio")


@dataclasses.dataclass(frozen=True)
class GradNorm(Rival):
    """w_i ← w_i − rate · ∂/∂w_i Σ_j |w_j G_j − Ḡ| / Ḡ, then w_i ← 2 w_i / Σ_j w_j, for i in vision, proprio.

    G_i is the norm of the loss's gradient in branch i and Ḡ the mean of w_i G_i, held constant in the derivative. The
    published method balances tasks, each with its own loss and training rate r_i; here both branches serve one loss,
    so r_i = 1. It multiplies losses; under Adam a slowly changing factor on a branch's gradient cancels, so w_i
    multiplies the branch's update instead, as λ does in M6.

    Args:
        rate: learning rate of the weights.

    Source: Chen et al. 2018, GradNorm (arXiv 1711.02257), equation 2 and algorithm 1.
    """

    rate: Annotated[float, Bounds(1e-10, 1, "how far a weight of about 1 moves in a step")] = 0.025

    modulates = True

    def init(self) -> dict[str, Any]:
        return {"weights": jnp.ones(len(BALANCED))}

    def adjust(
        self,
        memory: dict[str, Any],
        gradients: dict[str, Any],
        loss_of: Callable[[Mapping[str, Any]], Any],
        batch: Mapping[str, Any],
        rng: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        weights = memory["weights"]
        norms = branch_norms(gradients)
        own = jnp.stack([norms[branch] for branch in BALANCED])
        mean = jnp.maximum(jnp.mean(weights * own), 1e-12)
        moved = weights - self.rate * jnp.sign(weights * own - mean) * own / mean
        moved = jnp.maximum(moved, 1e-3)
        moved = len(BALANCED) * moved / jnp.sum(moved)
        return gradients, dict(zip(BALANCED, moved)), {"weights": moved}
