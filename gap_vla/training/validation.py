"""Held-out loss, split by ρ, beside that of predicting the mean action."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_vla.octo.optimizer import join_frozen
from gap_vla.phases.targets import is_transition
from gap_vla.training.packing import Packing
from gap_vla.training.step import counted_entries


def make_validation_step(
    module: Any, packing: Packing, frozen: Any = None
) -> Callable[[Any, Any, jax.Array], dict[str, jax.Array]]:
    """The compiled measurement `(packed params, batch, rng) -> sums`, to be added up over held-out batches.

    For every part of the steps (`all`; `transition`: ρ > 0.5; `consistent`: the others) it gives `<part>/loss` as
    a sum weighted with the number of counted action entries, and that number as `<part>/entries`. `action_error` and
    `mean_action_error` are summed squared errors of the predicted chunk and of predicting the mean action (0 after
    normalisation) at the window's last step, over `action_entries` entries.
    """

    def step(params: Any, frozen: Any, batch: Any, rng: jax.Array) -> dict[str, jax.Array]:
        observation = batch["observation"]
        mask = observation["timestep_pad_mask"]
        bound = module.bind({"params": join_frozen(packing.unpack(params), frozen)}, rngs={"dropout": rng})
        head = bound.heads["action"]
        outputs = bound.octo_transformer(observation, batch["task"], mask, train=False, only=[head.readout_key])
        transition = is_transition(batch["rho"])
        sums = {}
        for part, chosen in (
            ("all", jnp.ones_like(mask)),
            ("transition", transition),
            ("consistent", ~transition),
        ):
            counted = batch["action_pad_mask"] & chosen[:, :, None, None]
            entries = counted_entries({**batch, "action_pad_mask": counted})
            loss, _ = head.loss(outputs, batch["action"], mask, counted, train=False)
            sums[f"{part}/loss"] = loss * entries
            sums[f"{part}/entries"] = entries
        predicted = head.predict_action(outputs, rng=rng, train=False)
        target, counted = batch["action"][:, -1], batch["action_pad_mask"][:, -1]
        sums["action_error"] = jnp.sum(jnp.where(counted, jnp.square(predicted - target), 0.0))
        sums["mean_action_error"] = jnp.sum(jnp.where(counted, jnp.square(target), 0.0))
        sums["action_entries"] = jnp.sum(counted.astype(jnp.float32))
        return sums

    compiled = jax.jit(step)
    return lambda params, batch, rng: compiled(params, frozen or {}, batch, rng)


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
