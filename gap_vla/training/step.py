"""One training step of Octo, with GAP inside its gradient; and the held-out measurements.

The three factors of GAP are inputs of the compiled step, so VP, VP+GAP, every mode, and the time after GAP's window run
the same program: with ρ = 0 and λ = 1 the numbers are those of plain training, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gap_vla.adjustment.jax import adjusted_gradients, path_of, scale_group_gradients


@flax.struct.dataclass
class TrainState:
    """All that a step changes: parameters, optimizer state, number of steps done, and the random key."""

    params: Any
    opt_state: Any
    step: jax.Array
    rng: jax.Array


@flax.struct.dataclass
class DeviceFactors:
    """`gap_vla.adjustment.Factors` on the device: sample float32[B, W], gradient and update scalars."""

    sample: Any
    gradient: Any
    update: Any


def branch_of(path: str, group: Mapping[str, Any]) -> str:
    """Which branch a parameter belongs to: `proprio` (GAP's group), `vision` (image tokenizers), or `shared`."""
    if path in group:
        return "proprio"
    owner = path.split("/")[1] if path.startswith("octo_transformer/") else ""
    is_task = owner.startswith(("task_", "readout_", "BlockTransformer"))
    return "vision" if owner.startswith("ob") and not is_task else "shared"


def branch_norms(tree: Any, group: Mapping[str, Any]) -> dict[str, jax.Array]:
    """L2 norm of a parameter-shaped tree, by branch."""
    squares: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        branch = branch_of(path_of(path), group)
        squares[branch] = squares.get(branch, 0.0) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return {branch: jnp.sqrt(total) for branch, total in squares.items()}


def head_loss(
    module: Any,
    params: Any,
    batch: Mapping[str, Any],
    rng: jax.Array,
    train: bool,
    sample_factor: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of the action head; `sample_factor` (B, W) adjusts the proprioceptive gradient, None: no GAP."""
    observation = batch["observation"]
    mask = observation["timestep_pad_mask"]
    bound = module.bind({"params": params}, rngs={"dropout": rng})
    adjusted = contextlib.nullcontext() if sample_factor is None else adjusted_gradients(sample_factor)
    with adjusted:
        outputs = bound.octo_transformer(observation, batch["task"], mask, train=train)
    return bound.heads["action"].loss(outputs, batch["action"], mask, batch["action_pad_mask"], train=train)


def make_train_step(
    module: Any, tx: optax.GradientTransformationExtraArgs, group: Mapping[str, Any]
) -> Callable[[TrainState, Any, DeviceFactors], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step `(state, batch, factors) -> (state, metrics)`; `state` is donated.

    Args:
        module: `OctoModule`.
        tx: optimizer that holds `scale_group_updates(group)`.
        group: leaves that GAP may adjust (`match_group`); empty for a policy without proprioception.
    """

    def step(state: TrainState, batch: Any, factors: DeviceFactors) -> tuple[TrainState, dict[str, jax.Array]]:
        rng, dropout_rng = jax.random.split(state.rng)

        def loss_of(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            return head_loss(module, params, batch, dropout_rng, True, factors.sample if group else None)

        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients = scale_group_gradients(gradients, group, factors.gradient)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params, update_factor=factors.update)
        params = optax.apply_updates(state.params, updates)
        measured = {"loss": loss, "mse": metrics["mse"], "grad_norm": optax.global_norm(gradients)}
        parameter_norms = branch_norms(state.params, group)
        update_norms = branch_norms(updates, group)
        for branch, norm in branch_norms(gradients, group).items():
            measured[f"grad_norm/{branch}"] = norm
            measured[f"update_ratio/{branch}"] = update_norms[branch] / jnp.maximum(parameter_norms[branch], 1e-12)
        return TrainState(params, opt_state, state.step + 1, rng), measured

    return jax.jit(step, donate_argnums=0)


def make_validation_step(module: Any, threshold: float = 0.5) -> Callable[[Any, Any, jax.Array], dict[str, jax.Array]]:
    """The compiled measurement `(params, batch, rng) -> sums`, to be added up over held-out batches.

    For every part of the steps (`all`; `transition`: ρ > threshold; `consistent`: the others) it gives `<part>/loss` as
    a sum weighted with the number of counted action entries, and that number as `<part>/entries`. `action_error` and
    `mean_action_error` are summed squared errors of the predicted chunk and of predicting the mean action (0 after
    normalisation) at the window's last step, over `action_entries` entries.
    """

    def step(params: Any, batch: Any, rng: jax.Array) -> dict[str, jax.Array]:
        observation = batch["observation"]
        mask = observation["timestep_pad_mask"]
        bound = module.bind({"params": params}, rngs={"dropout": rng})
        outputs = bound.octo_transformer(observation, batch["task"], mask, train=False)
        transition = batch["rho"] > threshold
        sums = {}
        for part, chosen in (
            ("all", jnp.ones_like(mask)),
            ("transition", transition),
            ("consistent", ~transition),
        ):
            counted = batch["action_pad_mask"] & chosen[:, :, None, None]
            entries = jnp.sum((counted & mask[:, :, None, None]).astype(jnp.float32))
            loss, _ = bound.heads["action"].loss(outputs, batch["action"], mask, counted, train=False)
            sums[f"{part}/loss"] = loss * entries
            sums[f"{part}/entries"] = entries
        predicted = bound.heads["action"].predict_action(outputs, rng=rng, train=False)
        target, counted = batch["action"][:, -1], batch["action_pad_mask"][:, -1]
        sums["action_error"] = jnp.sum(jnp.where(counted, jnp.square(predicted - target), 0.0))
        sums["mean_action_error"] = jnp.sum(jnp.where(counted, jnp.square(target), 0.0))
        sums["action_entries"] = jnp.sum(counted.astype(jnp.float32))
        return sums

    return jax.jit(step)
