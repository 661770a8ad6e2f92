"""Held-out loss, split by ρ, beside that of predicting the mean action."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np


def validate(
    step: Callable[[Any, Any, jax.Array], dict[str, jax.Array]],
    params: Any,
    batches: Iterable[Any],
    seed: int,
) -> dict[str, float]:
    """Means over all held-out windows.

    Args:
        step: from `make_validation_step`.
        batches: every held-out window once.
        seed: of the noise that a diffusion head draws; the same noise at every validation.

    Returns:
        `val/loss`, `val/loss_transition` (ρ > 0.5), `val/loss_consistent`, `val/action_mse`, and
        `val/mean_action_mse`, what predicting the mean action would give. A part without any step is left out.
    """
    totals: dict[str, float] = {}
    for index, batch in enumerate(batches):
        rng = jax.random.fold_in(jax.random.PRNGKey(seed), index)
        for name, value in step(params, batch, rng).items():
            totals[name] = totals.get(name, 0.0) + float(np.asarray(value, np.float64))
    if not totals:
        return {}
    results = {}
    for part, name in (
        ("all", "val/loss"),
        ("transition", "val/loss_transition"),
        ("consistent", "val/loss_consistent"),
    ):
        if totals[f"{part}/entries"]:
            results[name] = totals[f"{part}/loss"] / totals[f"{part}/entries"]
    results["val/action_mse"] = totals["action_error"] / totals["action_entries"]
    results["val/mean_action_mse"] = totals["mean_action_error"] / totals["action_entries"]
    return results
