"""One training step of Octo, with GAP inside its gradient, and what is measured of each branch.

The three factors of GAP are inputs of the compiled step, so VP, VP+GAP, every mode, and the time after GAP's window run
the same program: with ρ = 0 and λ = 1 the numbers are those of plain training, bit for bit.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_vla.adjustment.jax import adjusted_gradients, chunk_gradients, scale_group_gradients
from gap_vla.adjustment.schedule import Factors
from gap_vla.octo.optimizer import join_frozen
from gap_vla.phases.targets import is_transition
from gap_vla.training.packing import Packing

jax.tree_util.register_dataclass(Factors, ["sample", "gradient", "update"], [])

MODEL_INPUTS = ("observation", "task", "action", "action_pad_mask")

QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
"""Of XLA on a CPU: a third less compilation, steps up to 7 % slower."""

REPEATABLE = {"xla_gpu_deterministic_ops": True}
"""Of XLA on a GPU: the same seed gives the same bytes, which it does not give by itself."""


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
        params: the trainable parameters, packed (`gap_vla.training.packing`).
        opt_state: of these.
        step: number of steps done.
        rng: the random key.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    rng: jax.Array


def model_inputs(batch: Mapping[str, Any], text_processor: Any = None) -> dict[str, Any]:
    """The parts of a batch that the compiled step takes; ρ is 0 where the dataset has none.

    Args:
        text_processor: turns the instructions into word pieces; None drops them.
    """
    chosen = {key: batch[key] for key in MODEL_INPUTS}
    if "target_rho" in batch:
        chosen["target_rho"] = batch["target_rho"]
    chosen["rho"] = batch.get("rho", np.zeros(batch["observation"]["timestep_pad_mask"].shape, np.float32))
    task = dict(batch["task"])
    words = task.pop("language_instruction", None)
    if words is not None and text_processor is not None:
        task["language_instruction"] = text_processor.encode([w.decode() if isinstance(w, bytes) else w for w in words])
    elif words is not None:
        task["pad_mask_dict"] = {k: v for k, v in task["pad_mask_dict"].items() if k != "language_instruction"}
    return chosen | {"task": task}


def head_loss(
    module: Any,
    params: Any,
    batch: Mapping[str, Any],
    rng: jax.Array,
    train: bool,
    sample: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of the action head; `sample` (B, W) adjusts the proprioceptive gradient, None: no GAP.

    With factors of single actions, (B, W, H), no gradient is adjusted, and the metrics hold the `weighted` loss.
    """
    weight = None
    if sample is not None and sample.ndim == 3:
        sample, weight = None, sample
    observation = batch["observation"]
    mask = observation["timestep_pad_mask"]
    bound = module.bind({"params": params}, rngs={"dropout": rng})
    head = bound.heads["action"]
    with contextlib.nullcontext() if sample is None else adjusted_gradients(sample):
        outputs = bound.octo_transformer(observation, batch["task"], mask, train=train, only=[head.readout_key])
    return head.loss(outputs, batch["action"], mask, batch["action_pad_mask"], train=train, weight=weight)


class TrainStep:
    """`step(state, batch, factors, split=False) -> (state, metrics)`; `state` is donated.

    Two compiled programs: the gradient of the loss in the packed trainable parameters, and the optimizer. With `split`
    the gradient is taken once more over the window steps with ρ > 0.5 alone, for the metrics (`split_norms`).

    Args:
        module: `OctoModule`.
        tx: optimizer of the packed trainable parameters, with `scale_group_updates(packing.group_labels)`.
        packing: of the trainable parameters.
        learning_rate: number of updates done to the rate of the next, for the metrics.
        frozen: tree of the parameters that have neither gradient nor optimizer state.
        adjust: False leaves GAP out of the program, for measuring what it costs.
        shardings: of the state (a `TrainState` of `NamedSharding`); None on a single device.
        quick: on a CPU, compile the gradient quickly, for a short run.
    """

    def __init__(
        self,
        module: Any,
        tx: optax.GradientTransformationExtraArgs,
        packing: Packing,
        learning_rate: Callable[[Any], Any],
        frozen: Any = None,
        adjust: bool = True,
        shardings: TrainState | None = None,
        quick: bool = False,
    ):
        self.frozen = frozen or {}
        adjust, group = adjust and bool(packing.group), packing.group_labels

        def gradient(params: Any, frozen: Any, batch: Any, sample: jax.Array, rng: jax.Array) -> Any:
            def loss_of(tree: Any, batch: Any, sample: jax.Array, rng: jax.Array) -> Any:
                return head_loss(module, join_frozen(tree, frozen), batch, rng, True, sample if adjust else None)

            def packed(tree: Any, batch: Any, sample: jax.Array, rng: jax.Array) -> Any:
                def with_weighted(tree: Any) -> Any:
                    loss, metrics = loss_of(tree, batch, sample, rng)
                    return (loss, metrics["weighted"]), metrics

                if adjust and sample.ndim == 3:  # a factor of every action
                    (loss, metrics), gradients = chunk_gradients(with_weighted, tree, packing.group)
                else:
                    (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(tree, batch, sample, rng)
                return {"loss": loss, "mse": metrics["mse"]}, packing.pack(gradients)

            step_rng = jax.random.split(rng)[1]
            measured, gradients = packed(packing.unpack(params), batch, sample, step_rng)
            return gradients, measured

        def update(state: TrainState, gradients: Any, factors: Factors) -> Any:
            rng, _ = jax.random.split(state.rng)
            gradients = scale_group_gradients(gradients, group, factors.gradient, may_be_empty=True)
            updates, opt_state = tx.update(gradients, state.opt_state, state.params, update_factor=factors.update)
            measured = {"grad_norm": optax.global_norm(gradients), "learning_rate": learning_rate(state.step)}
            measured |= branch_measurements(gradients, updates, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, opt_state, state.step + 1, rng), measured

        def transitions(batch: Any) -> tuple[Any, jax.Array]:
            chosen = batch["action_pad_mask"] & is_transition(batch["rho"])[:, :, None, None]
            part = {**batch, "action_pad_mask": chosen}
            return part, counted_entries(part) / jnp.maximum(counted_entries(batch), 1)

        def split(gradients: Any, transition: Any, share: jax.Array, factor: jax.Array) -> Any:
            whole, part = (scale_group_gradients(g, group, factor, may_be_empty=True) for g in (gradients, transition))
            return split_norms(whole, part, share)

        whole = None if shardings is None else (shardings, None)
        self.gradient: Any = jax.jit(gradient, compiler_options=compilation(quick))
        self.update: Any = jax.jit(update, donate_argnums=0, out_shardings=whole, compiler_options=compilation())
        self._transitions, self._split = jax.jit(transitions), jax.jit(split)

    def __call__(
        self, state: TrainState, batch: Any, factors: Factors, split: bool = False
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        gradients, measured = self.gradient(state.params, self.frozen, batch, factors.sample, state.rng)
        if split:
            part, share = self._transitions(batch)
            transition, _ = self.gradient(state.params, self.frozen, part, factors.sample, state.rng)
            measured |= self._split(gradients, transition, share, factors.gradient)
        state, more = self.update(state, gradients, factors)
        return state, measured | more


def counted_entries(batch: Mapping[str, Any]) -> jax.Array:
    """How many action entries a batch's loss is a mean over: neither padded in the window nor in the chunk."""
    mask = jnp.asarray(batch["observation"]["timestep_pad_mask"])[:, :, None, None]
    return jnp.sum((batch["action_pad_mask"] & mask).astype(jnp.float32))


def branch_norms(packed: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """L2 norm of packed vectors, by branch."""
    squares: dict[str, jax.Array] = {}
    for label, vector in packed.items():
        branch = label.split("/")[0]
        squares[branch] = squares.get(branch, jnp.zeros([])) + jnp.sum(jnp.square(vector.astype(jnp.float32)))
    return {branch: jnp.sqrt(total) for branch, total in squares.items()}


def branch_measurements(gradients: Any, updates: Any, params: Any) -> dict[str, jax.Array]:
    """`grad_norm/<branch>`, and `update_ratio/<branch>`: |update| / |parameters|."""
    sizes, changes = branch_norms(params), branch_norms(updates)
    found = {f"grad_norm/{branch}": norm for branch, norm in branch_norms(gradients).items()}
    return found | {f"update_ratio/{b}": changes[b] / jnp.maximum(size, 1e-12) for b, size in sizes.items()}


def split_norms(
    gradients: Mapping[str, jax.Array], transition: Mapping[str, jax.Array], share: jax.Array
) -> dict[str, jax.Array]:
    """The parts of `grad_norm/<branch>` that are due to transitions and to the other window steps.

    The loss is a mean over action entries, so its gradient is a sum of two: `share` times the mean gradient over the
    transitions' entries, and the rest.

    Args:
        transition: mean gradient over entries with high ρ.
        share: of these entries among all.

    Returns:
        `grad_norm/<branch>/<part>` for the parts `transition` and `consistent`, and `rho/transition_share`.
    """
    high = {label: share * vector for label, vector in transition.items()}
    low = {label: gradients[label] - vector for label, vector in high.items()}
    found = {"rho/transition_share": share}
    for part, vectors in (("transition", high), ("consistent", low)):
        found |= {f"grad_norm/{branch}/{part}": norm for branch, norm in branch_norms(vectors).items()}
    return found


@functools.cache
def compilation(quick: bool = False) -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit`: `REPEATABLE` on a GPU, `QUICK` on a CPU if that is asked for; None on other
    devices, and where this XLA does not know the options."""
    options = {"gpu": REPEATABLE, "cpu": QUICK if quick else None}.get(jax.default_backend())
    if options is None:
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options
