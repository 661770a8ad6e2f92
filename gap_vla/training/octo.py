"""Fine-tuning Octo on windows of an episode store: the model, its optimizer and GAP put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gap_vla.adjustment.jax import match_group, scale_group_updates
from gap_vla.config import FinetuneConfig
from gap_vla.octo import OctoModel
from gap_vla.octo.optimizer import create_optimizer
from gap_vla.octo.presets import small_config
from gap_vla.training.checkpoints import StateCheckpoints
from gap_vla.training.loop import Loader, collect, model_inputs, train
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.step import TrainState, make_train_step, make_validation_step
from gap_vla.training.validation import validate


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model with everything that a training step needs, before the first step."""

    model: OctoModel
    group: Mapping[str, tuple[int, ...]]  # leaves that GAP adjusts, empty without proprioception
    tx: optax.GradientTransformationExtraArgs
    state: TrainState


def build(config: FinetuneConfig, example_batch: Any, statistics: Any) -> Trainer:
    """Builds the model (merging pretrained weights if the configuration names them) and its optimizer.

    Args:
        example_batch: one batch of the loader; its shapes decide the model's inputs and outputs.
        statistics: normalisation statistics; they travel with the model.

    Raises:
        GroupError: GAP would adjust nothing, or a parameter outside the proprioceptive branch.
        CheckpointError: pretrained weights missing or of another architecture.
    """
    rng = jax.random.PRNGKey(config.train.seed)
    init_rng, step_rng = jax.random.split(rng)
    batch = model_inputs(example_batch)
    if config.model.pretrained:
        model = _from_pretrained(config, batch, statistics, init_rng)
    else:
        model = OctoModel.from_config(
            _small_model(config, batch),
            batch,
            rng=init_rng,
            dataset_statistics=statistics,
        )
    group = match_group(model.params) if config.uses_proprio else {}
    tx, _, _ = create_optimizer(
        model.params,
        {
            "name": "cosine",
            "init_value": 0.0,
            "peak_value": config.optimizer.learning_rate,
            "warmup_steps": config.optimizer.warmup_steps,
            "decay_steps": max(config.train.steps, config.optimizer.warmup_steps + 1),
            "end_value": 0.0,
        },
        weight_decay=config.optimizer.weight_decay,
        clip_gradient=config.optimizer.clip_gradient,
        frozen_keys=list(config.optimizer.frozen_keys) or None,
        after_normalization=scale_group_updates(group),
        mu_dtype=jax.numpy.dtype(config.optimizer.moment_dtype),
    )
    state = TrainState(model.params, tx.init(model.params), jax.numpy.zeros([], jax.numpy.int32), step_rng)
    return Trainer(model, group, tx, state)


def _small_model(config: FinetuneConfig, batch: Any) -> dict[str, Any]:
    observation, action = batch["observation"], batch["action"]
    images = sorted(key for key in observation if key.startswith("image_"))
    return small_config(
        image_keys=images,
        image_size=observation[images[0]].shape[2],
        proprio_dim=observation["proprio"].shape[-1] if config.uses_proprio else None,
        action_dim=action.shape[-1],
        action_horizon=action.shape[-2],
        window_size=config.model.window_size,
        head=config.model.head,
        token_embedding_size=config.model.token_embedding_size,
        num_layers=config.model.num_layers,
        num_attention_heads=config.model.num_heads,
        mlp_dim=config.model.mlp_dim,
        stem_features=config.model.stem_features,
    )


def _from_pretrained(config: FinetuneConfig, batch: Any, statistics: Any, rng: jax.Array) -> OctoModel:
    raise NotImplementedError


def describe(trainer: Trainer, config: FinetuneConfig) -> str:
    """What will be trained: parameter counts, GAP's leaves, and the memory of parameters and optimizer."""
    leaves = jax.tree_util.tree_leaves(trainer.model.params)
    count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    held = sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(trainer.state) if hasattr(leaf, "nbytes"))
    schedule = config.schedule
    lines = [f"model: Octo, {count:,} parameters in {len(leaves)} leaves; with optimizer state {held / 2**20:.0f} MiB"]
    if schedule.mode == "none":
        lines.append(f"method {config.method}: no gradient is adjusted")
    else:
        until = sum(schedule.active(step, config.train.steps) for step in range(config.train.steps))
        lines.append(
            f"method {config.method}: mode {schedule.mode}, λ = {schedule.lam}, steps 0 to {until} of "
            f"{config.train.steps}; adjusted leaves:"
        )
        lines += [f"  {path} {list(shape)}" for path, shape in trainer.group.items()]
    return "\n".join(lines)


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
    state = jax.device_put(trainer.state, replicated)
    step = make_train_step(trainer.model.module, trainer.tx, trainer.group)
    measure = make_validation_step(trainer.model.module)
    validation_batches = collect(held_out)
    checkpoints = StateCheckpoints(run.state)
    try:
        state, measured = train(
            config.train,
            config.schedule,
            state,
            step,
            loader,
            lambda params: validate(measure, params, validation_batches, config.train.seed),
            checkpoints,
            run.metrics,
            run.tensorboard,
            place=lambda batch: jax.device_put(batch, split),
        )
    finally:
        checkpoints.close()
    model = trainer.model.replace(params=jax.device_get(state.params))
    model.save_pretrained(step=config.train.steps, checkpoint_path=str(run.checkpoint))
    return model, measured
