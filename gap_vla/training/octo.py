"""Fine-tuning Octo on windows of an episode store: the model, its optimizer and GAP put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_vla.adjustment.jax import GroupError, match_group, scale_group_updates
from gap_vla.octo import OctoModel
from gap_vla.octo.model import parameter_shapes
from gap_vla.octo.module import OctoModule
from gap_vla.octo.optimizer import create_optimizer, join_frozen, split_frozen
from gap_vla.training.architecture import adapted_config, small_model
from gap_vla.training.branches import Adam
from gap_vla.training.checkpoints import StateCheckpoints
from gap_vla.training.config import FinetuneConfig
from gap_vla.training.hosts import is_first_host
from gap_vla.training.loop import Loader, train
from gap_vla.training.mesh import gather, make_mesh, place_batch, place_state, state_shardings
from gap_vla.training.packing import Packing
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.step import TrainState, TrainStep, make_validation_step
from gap_vla.training.validation import validate

SHORT_RUN = 200
"""Training steps up to which compiling quickly saves more than it costs."""

MODEL_INPUTS = ("observation", "task", "action", "action_pad_mask")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model with everything that a training step needs, before the first step.

    Attributes:
        packing: how the optimizer sees the trainable parameters; its `group` are GAP's leaves with their shapes, empty
            without proprioception.
        inputs: a loader's batch to what the compiled step takes (numbers only, instructions as word pieces).
    """

    model: OctoModel
    packing: Packing
    tx: optax.GradientTransformationExtraArgs
    adam: Adam
    state: TrainState
    inputs: Callable[[Mapping[str, Any]], dict[str, Any]]

    @property
    def group(self) -> Mapping[str, tuple[int, ...]]:
        return self.packing.group


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
        {**layout, "camera": config.demos.camera},
        batch,
        text_processor=text_processor,
        rng=init_rng,
        dataset_statistics=statistics,
        pretrained=source.params if source else None,
    )
    packing, tx, adam = optimizer_of(config, model.params)
    trainable, _ = split_frozen(model.params, config.optimizer.frozen_keys)

    def fresh(tree: Any, rng: jax.Array) -> TrainState:
        packed = packing.pack(tree)
        return TrainState(packed, tx.init(packed), jnp.zeros([], jnp.int32), rng)

    state = jax.jit(fresh)(trainable, step_rng)
    return Trainer(model, packing, tx, adam, state, lambda batch: model_inputs(batch, text_processor))


def optimizer_of(config: FinetuneConfig, params: Any) -> tuple[Packing, optax.GradientTransformationExtraArgs, Adam]:
    """How the trainable leaves are packed, and the optimizer of the packed ones that can scale GAP's updates.

    Raises:
        GroupError: a leaf that GAP would adjust is frozen.
    """
    group = match_group(params) if config.uses_proprio else {}
    settings = config.optimizer
    trainable, _ = split_frozen(params, settings.frozen_keys)
    packing = Packing.of(trainable, group, multiple=config.train.fsdp)
    still = [path for path in group if path not in packing.shapes]
    if still and config.schedule.mode != "none":
        raise GroupError(
            f"method {config.method} adjusts {still[0]}, which optimizer.frozen_keys freezes "
            f"({', '.join(settings.frozen_keys)})"
        )
    tx, learning_rate, _ = create_optimizer(
        jax.eval_shape(packing.pack, trainable),
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
        after_normalization=optax.chain(scale_group_updates(packing.group_labels)),  # a chain: so checkpoints hold it
        mu_dtype=jnp.dtype(settings.moment_dtype),
    )
    return packing, optax.with_extra_args_support(tx), Adam(learning_rate, settings.clip_gradient)


def describe(config: FinetuneConfig, params: Any, opt_state: Any, group: Mapping[str, tuple[int, ...]]) -> str:
    """What will be trained: size, memory, and the leaves that GAP adjusts. Works on arrays and on their shapes."""
    leaves = jax.tree_util.tree_leaves(params)
    count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    trainable, frozen = split_frozen(params, config.optimizer.frozen_keys)
    fixed = sum(int(np.prod(leaf.shape)) for leaf in jax.tree_util.tree_leaves(frozen))
    lines = [
        f"model: Octo, {count:,} parameters in {len(leaves)} leaves" + (f", {fixed:,} frozen" if fixed else ""),
        f"memory: parameters {_mib(_bytes(params))}, gradients {_mib(_bytes(trainable))}, "
        f"optimizer {_mib(_bytes(opt_state))}; "
        "activations come on top",
    ]
    schedule = config.schedule
    if schedule.mode == "none":
        return "\n".join([*lines, f"method {config.method}: no gradient is adjusted"])
    until = schedule.active_steps(config.train.steps)
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
    packing, tx, _ = optimizer_of(config, params)
    trainable, _ = split_frozen(params, config.optimizer.frozen_keys)
    opt_state = jax.eval_shape(lambda tree: tx.init(packing.pack(tree)), trainable)
    lines = [describe(config, params, opt_state, packing.group), "inputs of a step:"]
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
    mesh = make_mesh(config.train.fsdp, config.train.batch_size // config.train.accumulate)
    shardings = state_shardings(mesh, trainer.state)
    _, frozen = split_frozen(trainer.model.params, config.optimizer.frozen_keys)
    frozen = place_state(frozen, state_shardings(mesh, frozen))
    step = TrainStep(
        trainer.model.module,
        trainer.tx,
        trainer.packing,
        trainer.adam,
        frozen,
        config.train.accumulate,
        shardings=shardings if mesh.size > 1 else None,
        quick=config.train.steps <= SHORT_RUN,
    )
    measure = make_validation_step(trainer.model.module, trainer.packing, frozen)
    validation_batches = [trainer.inputs(batch) for batch in held_out]
    checkpoints = StateCheckpoints(run.state, trainer.packing.identity)
    try:
        state, measured = train(
            config.train,
            config.schedule,
            place_state(trainer.state, shardings),
            step,
            loader,
            lambda params: validate(measure, params, validation_batches, config.train.seed),
            checkpoints,
            run.metrics,
            run.tensorboard,
            inputs=trainer.inputs,
            place=lambda batch: place_batch(mesh, batch),
        )
    finally:
        checkpoints.close()
    params = join_frozen(trainer.packing.unpack(gather(mesh, state.params)), gather(mesh, frozen))
    model = trainer.model.replace(params=params)
    if (
        is_first_host() and not (run.checkpoint / str(config.train.steps)).exists()
    ):  # a run that was stopped during its rollouts has it
        model.save_pretrained(step=config.train.steps, checkpoint_path=str(run.checkpoint))
    return model, measured
