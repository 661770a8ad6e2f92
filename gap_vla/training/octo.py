"""Fine-tuning Octo on windows of an episode store: the model, its optimizer and GAP put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gap_vla.adjustment.jax import match_group, scale_group_updates
from gap_vla.config import FinetuneConfig
from gap_vla.octo import OctoModel
from gap_vla.octo.model import parameter_shapes
from gap_vla.octo.module import OctoModule
from gap_vla.octo.optimizer import create_optimizer
from gap_vla.training.architecture import adapted_config, small_model
from gap_vla.training.checkpoints import StateCheckpoints
from gap_vla.training.loop import Loader, train
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.step import TrainState, make_train_step, make_validation_step
from gap_vla.training.validation import validate

MODEL_INPUTS = ("observation", "task", "action", "action_pad_mask")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model with everything that a training step needs, before the first step.

    Attributes:
        group: leaves that GAP adjusts, with their shapes; empty without proprioception.
        inputs: a loader's batch to what the compiled step takes (numbers only, instructions as word pieces).
    """

    model: OctoModel
    group: Mapping[str, tuple[int, ...]]
    tx: optax.GradientTransformationExtraArgs
    state: TrainState
    inputs: Callable[[Mapping[str, Any]], dict[str, Any]]


def model_inputs(batch: Mapping[str, Any], text_processor: Any = None) -> dict[str, Any]:
    """The parts of a batch that the compiled step takes; ρ is 0 where the dataset has none.

    Args:
        text_processor: turns the instructions into word pieces; None drops them.
    """
    chosen = {key: batch[key] for key in MODEL_INPUTS}
    chosen["rho"] = batch.get("rho", np.zeros(batch["observation"]["timestep_pad_mask"].shape, np.float32))
    task = dict(batch["task"])
    words = task.pop("language_instruction", None)
    if words is not None and text_processor is not None:
        task["language_instruction"] = text_processor.encode([w.decode() if isinstance(w, bytes) else w for w in words])
    elif words is not None:
        task["pad_mask_dict"] = {k: v for k, v in task["pad_mask_dict"].items() if k != "language_instruction"}
    return chosen | {"task": task}


def build(config: FinetuneConfig, example_batch: Any, statistics: Any) -> Trainer:
    """Builds the model (merging pretrained weights if the configuration names them) and its optimizer.

    Args:
        example_batch: one batch of the loader; its shapes decide the model's inputs and outputs.
        statistics: normalisation statistics; they travel with the model.

    Raises:
        GroupError: GAP would adjust nothing, or a parameter outside the proprioceptive branch.
        CheckpointError: pretrained weights missing or of another architecture.
    """
    init_rng, step_rng = jax.random.split(jax.random.PRNGKey(config.train.seed))
    source = OctoModel.load_pretrained(config.model.pretrained) if config.model.pretrained else None
    text_processor = source.text_processor if source else None
    batch = model_inputs(example_batch, text_processor)
    layout = adapted_config(source.config, config, batch) if source else small_model(config, batch)
    model = OctoModel.from_config(
        layout,
        batch,
        text_processor=text_processor,
        rng=init_rng,
        dataset_statistics=statistics,
        pretrained=source.params if source else None,
    )
    group, tx = optimizer_of(config, model.params)
    state = TrainState(model.params, tx.init(model.params), jnp.zeros([], jnp.int32), step_rng)
    return Trainer(model, group, tx, state, lambda batch: model_inputs(batch, text_processor))


def optimizer_of(
    config: FinetuneConfig, params: Any
) -> tuple[dict[str, tuple[int, ...]], optax.GradientTransformationExtraArgs]:
    """GAP's leaves and the optimizer that can scale their update."""
    group = match_group(params) if config.uses_proprio else {}
    settings = config.optimizer
    tx, _, _ = create_optimizer(
        params,
        {
            "name": "cosine",
            "init_value": 0.0,
            "peak_value": settings.learning_rate,
            "warmup_steps": settings.warmup_steps,
            "decay_steps": max(config.train.steps, settings.warmup_steps + 1),
            "end_value": 0.0,
        },
        weight_decay=settings.weight_decay,
        clip_gradient=settings.clip_gradient,
        frozen_keys=settings.frozen_keys,
        after_normalization=scale_group_updates(group),
        mu_dtype=jnp.dtype(settings.moment_dtype),
    )
    return group, tx


def describe(config: FinetuneConfig, params: Any, opt_state: Any, group: Mapping[str, tuple[int, ...]]) -> str:
    """What will be trained: size, memory, and the leaves that GAP adjusts. Works on arrays and on their shapes."""
    leaves = jax.tree_util.tree_leaves(params)
    count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    weights = _bytes(params)
    lines = [
        f"model: Octo, {count:,} parameters in {len(leaves)} leaves",
        f"memory: parameters {_mib(weights)}, gradients {_mib(weights)}, optimizer {_mib(_bytes(opt_state))}; "
        "activations come on top",
    ]
    schedule = config.schedule
    if schedule.mode == "none":
        return "\n".join([*lines, f"method {config.method}: no gradient is adjusted"])
    until = sum(schedule.active(step, config.train.steps) for step in range(config.train.steps))
    lines.append(
        f"method {config.method}: mode {schedule.mode}, λ = {schedule.lam}, during the first {until} of "
        f"{config.train.steps} steps; adjusted leaves:"
    )
    return "\n".join([*lines, *(f"  {path} {list(shape)}" for path, shape in group.items())])


def dry_run(config: FinetuneConfig, batch: Mapping[str, Any], layout: Mapping[str, Any]) -> str:
    """Builds everything as shapes only: inputs, parameters, optimizer, GAP's leaves; nothing is allocated.

    Args:
        batch: what the compiled step would take.
        layout: the model's configuration, e.g. of a published checkpoint that need not be there.
    """
    params = parameter_shapes(OctoModule.create(**layout["model"]), batch)
    group, tx = optimizer_of(config, params)
    opt_state = jax.eval_shape(tx.init, params)
    lines = [describe(config, params, opt_state, group), "inputs of a step:"]
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        lines.append(f"  {'/'.join(str(k.key) for k in path)} {leaf.dtype}{list(leaf.shape)}")
    return "\n".join(lines)


def _bytes(tree: Any) -> int:
    sized = [leaf for leaf in jax.tree_util.tree_leaves(tree) if hasattr(leaf, "dtype")]
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in sized)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def fine_tune(
    config: FinetuneConfig, trainer: Trainer, loader: Loader, held_out: Any, run: RunDirectory
) -> tuple[OctoModel, dict[str, float]]:
    """Trains, and exports the model in upstream's layout to the run's `checkpoint/`.

    Args:
        loader: endless training batches.
        held_out: finite iterable of validation batches.

    Returns:
        The trained model and its last held-out measurements.
    """
    mesh = Mesh(np.array(jax.devices()), ("data",))
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    step = make_train_step(trainer.model.module, trainer.tx, trainer.group)
    measure = make_validation_step(trainer.model.module)
    validation_batches = [trainer.inputs(batch) for batch in held_out]
    checkpoints = StateCheckpoints(run.state)
    try:
        state, measured = train(
            config.train,
            config.schedule,
            jax.device_put(trainer.state, replicated),
            step,
            loader,
            lambda params: validate(measure, params, validation_batches, config.train.seed),
            checkpoints,
            run.metrics,
            run.tensorboard,
            inputs=trainer.inputs,
            place=lambda batch: jax.device_put(batch, split),
        )
    finally:
        checkpoints.close()
    model = trainer.model.replace(params=jax.device_get(state.params))
    if not (run.checkpoint / str(config.train.steps)).exists():  # a run that was stopped during its rollouts has it
        model.save_pretrained(step=config.train.steps, checkpoint_path=str(run.checkpoint))
    return model, measured
