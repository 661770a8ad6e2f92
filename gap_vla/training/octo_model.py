"""The Octo of a configuration: its layout, its parameters, its optimizer, and what of them GAP adjusts."""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from gap_vla.adjustment.jax import match_group, scale_group_updates
from gap_vla.core.errors import ConfigError
from gap_vla.octo import checkpoint
from gap_vla.octo.blocks import Compute
from gap_vla.octo.language import DEFAULTS, frozen_encoders
from gap_vla.octo.model import OctoModel
from gap_vla.octo.module import OctoModule
from gap_vla.octo.optimizer import create_optimizer, split_frozen
from gap_vla.octo.parameters import parameter_shapes
from gap_vla.octo.presets import example_batch, published_config, small_config
from gap_vla.octo.tokenizers import ImageTokenizer, matching_keys
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.packing import Packing
from gap_vla.training.step import TrainState, model_inputs

Shapes = Mapping[str, Sequence[int]]

OBSERVATIONS = "observation_tokenizers"


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The parameters of a model, or their shapes, parted once.

    Attributes:
        group: GAP's leaves with their shapes, empty without proprioception.
    """

    trainable: Any
    frozen: Any
    group: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, config: FinetuneConfig, params: Any, module: OctoModule) -> Parameters:
        """As `optimizer.frozen_keys` and the method want it; nor is trained what only weight decay would change.

        Raises:
            ConfigError: a pattern matches no parameter, or a leaf that GAP would adjust.
        """
        group, frozen_keys = match_group(params) if config.uses_proprio else {}, config.optimizer.frozen_keys
        trainable, frozen = split_frozen(params, [*frozen_keys, *frozen_encoders(module, params)])
        still = sorted(group.keys() & traverse_util.flatten_dict(frozen, sep="/").keys())
        if still and config.schedule.mode != "none":
            leaf = still[0].replace("/", ".")
            raise ConfigError(
                f"optimizer.frozen_keys is {frozen_keys}, which freezes {leaf}; method {config.method} adjusts its "
                "gradient"
            )
        return cls(trainable, frozen, group)


@dataclasses.dataclass(frozen=True)
class Built:
    """A model with everything that a training step needs, before the first step.

    Attributes:
        packing: how the optimizer sees the trainable parameters.
        learning_rate: number of updates done to the rate of the next.
        inputs: a loader's batch to what the compiled step takes (numbers only, instructions as word pieces).
    """

    model: OctoModel
    parameters: Parameters
    packing: Packing
    tx: optax.GradientTransformationExtraArgs
    learning_rate: Callable[[Any], Any]
    state: TrainState
    inputs: Callable[[Mapping[str, Any]], dict[str, Any]]


def build(config: FinetuneConfig, example_batch: Any, statistics: Any) -> Built:
    """Builds the model (merging pretrained weights if the configuration names them) and its optimizer.

    Args:
        example_batch: one batch of the loader; its shapes decide the model's inputs and outputs.
        statistics: normalisation statistics; they travel with the model.

    Raises:
        UserError: GAP would adjust nothing, or a parameter outside the proprioceptive branch; pretrained weights are
            missing or of another architecture.
    """
    init_rng, step_rng = jax.random.split(jax.random.PRNGKey(config.train.seed))
    source = OctoModel.load_pretrained(config.model.pretrained) if config.model.pretrained else None
    text_processor = source.text_processor if source else None
    batch = model_inputs(example_batch, text_processor)
    layout = adapted_config(source.config, config, batch) if source else small_model(config, batch)
    more = {"proprio_history": n} if (n := config.model.proprio_history) > 1 else {}
    layout.pop("proprio_history", None)  # that of the pretrained model
    own = {"camera": config.demos.camera, "normalization": config.data.normalization}
    model = OctoModel.from_config(
        {**layout, **own, **more},
        batch,
        text_processor=text_processor,
        rng=init_rng,
        dataset_statistics=statistics,
        pretrained=source.params if source else None,
        compute=Compute(jnp.dtype(config.train.precision)),
    )
    parameters = Parameters.of(config, model.params, model.module)
    held = traverse_util.flatten_dict(dict(source.params), sep="/") if source else None
    for path, leaf in traverse_util.flatten_dict(parameters.frozen, sep="/").items():
        if held is not None and np.shape(held.get(path)) != leaf.shape:
            drawn = f"optimizer.frozen_keys freezes {path}, which model.pretrained does not hold in this shape"
            print(f"note: {drawn}: it stays as it was drawn at random", file=sys.stderr, flush=True)
    packing, tx, learning_rate = optimizer_of(config, parameters)

    def fresh(tree: Any, rng: jax.Array) -> TrainState:
        packed = packing.pack(tree)
        return TrainState(packed, tx.init(packed), jnp.zeros([], jnp.int32), rng)

    state = jax.jit(fresh)(parameters.trainable, step_rng)
    inputs = functools.partial(model_inputs, text_processor=text_processor)
    return Built(model, parameters, packing, tx, learning_rate, state, inputs)


def optimizer_of(
    config: FinetuneConfig, parameters: Parameters
) -> tuple[Packing, optax.GradientTransformationExtraArgs, Callable[[Any], Any]]:
    """How the trainable leaves are packed, the optimizer of the packed ones that can scale GAP's updates, and its
    learning rate."""
    settings = config.optimizer
    packing = Packing.of(parameters.trainable, parameters.group, multiple=config.train.fsdp)
    of_gap = scale_group_updates(packing.group_labels, may_be_empty=True)
    tx, learning_rate = create_optimizer(
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
        after_normalization=optax.chain(of_gap),  # a chain: so checkpoints hold it
        mu_dtype=jnp.dtype(settings.moment_dtype),
    )
    return packing, optax.with_extra_args_support(tx), learning_rate


def describe(config: FinetuneConfig, parameters: Parameters) -> str:
    """What will be trained, and the leaves that GAP adjusts. Works on arrays and on their shapes."""
    leaves = jax.tree.leaves([parameters.trainable, parameters.frozen])
    fixed = sum(leaf.size for leaf in jax.tree.leaves(parameters.frozen))
    count = sum(leaf.size for leaf in leaves)
    line = f"model: Octo, {count:,} parameters in {len(leaves)} leaves" + (f", {fixed:,} frozen" if fixed else "")
    schedule = config.schedule
    if schedule.mode == "none":
        return f"{line}\nmethod {config.method}: no gradient is adjusted"
    until = schedule.active_steps(config.train.steps)
    what = f", ρ {schedule.rho}" if schedule.needs_rho else ""
    gap = (
        f"method {config.method}: mode {schedule.mode}{what}, λ = {schedule.factor}, during the first {until} "
        f"of {config.train.steps} steps; adjusted leaves:"
    )
    return "\n".join([line, gap, *(f"  {path} {list(shape)}" for path, shape in parameters.group.items())])


def dry_run(config: FinetuneConfig, shapes: Shapes) -> str:
    """Builds everything as shapes only: inputs, parameters, GAP's leaves; nothing is allocated."""
    pretrained = config.model.pretrained
    batch, layout = planned(config, shapes)
    module = OctoModule.create(**layout["model"])
    parameters = Parameters.of(config, parameter_shapes(module, batch), module)
    unread = "" if Path(pretrained).is_dir() else " (not read in a dry run)"
    lines = [f"pretrained weights: {pretrained}{unread}"] if pretrained else []
    lines += [describe(config, parameters), "inputs of a step:"]
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        lines.append(f"  {'/'.join(str(k.key) for k in path)} {leaf.dtype}{list(leaf.shape)}")
    return "\n".join(lines)


def small_model(config: FinetuneConfig, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of the small model for the shapes of `batch`."""
    observation, action = batch["observation"], batch["action"]
    images = sorted(key for key in observation if key.startswith("image_"))
    model = config.model
    return small_config(
        image_keys=images,
        image_size=observation[images[0]].shape[2],
        proprio_dim=observation["proprio"].shape[-1] if config.uses_proprio else None,
        action_dim=action.shape[-1],
        action_horizon=action.shape[-2],
        token_embedding_size=model.token_embedding_size,
        num_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        mlp_dim=model.mlp_dim,
        head=model.head,
        window_size=model.window_size,
        stem_features=model.stem_features,
        stem_patch=model.stem_patch,
        proprio_tokens=model.proprio_tokens if config.uses_proprio else 0,
    )


def adapted_config(source: Mapping[str, Any], config: FinetuneConfig, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A published model's layout with this experiment's inputs and outputs.

    Cameras that the data lack are dropped; the proprioceptive tokenizer, if any, comes after the images; the action
    head is a new one. Everything else stays, so that pretrained parameters keep their path and shape.
    """
    layout = copy.deepcopy(dict(source))
    model = layout["model"]
    observation = batch["observation"]
    patterns = {
        name: spec["kwargs"].get("obs_stack_keys", ImageTokenizer.obs_stack_keys)
        for name, spec in model[OBSERVATIONS].items()
        if spec["name"] == ImageTokenizer.__name__
    }
    every = [pattern for of_one in patterns.values() for pattern in of_one]
    cameras = {f"image_{camera}": () for camera in config.demos.cameras}
    if blind := cameras.keys() - matching_keys(cameras, every):
        raise ConfigError(
            f"demos.cameras is {config.demos.cameras}, model.pretrained has no tokenizer for {min(blind)}; "
            f"it has {', '.join(sorted({*every})) or 'none'}"
        )
    kept = {name: model[OBSERVATIONS][name] for name, found in patterns.items() if matching_keys(observation, found)}
    head = small_model(config, batch)["model"]
    if config.uses_proprio:
        kept["proprio"] = head[OBSERVATIONS]["proprio"]
    model[OBSERVATIONS] = kept
    model["heads"] = {"action": head["heads"]["action"]}
    model["readouts"] = {"action": model.get("readouts", {}).get("action", 1)}
    layout["window_size"] = config.model.window_size
    return layout


def planned(config: FinetuneConfig, shapes: Shapes) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a step would take, and the model's layout, before there are any data.

    The published weights need not be there; their layout is known by name.

    Args:
        shapes: of the fields of a step of the data.
    """
    images = [f"image_{camera}" for camera in config.demos.cameras]
    batch = example_batch(
        image_keys=images,
        image_size=config.demos.image_size,
        proprio_dim=shapes["proprio"][0] * config.model.proprio_history if config.uses_proprio else None,
        action_dim=shapes["action"][0],
        action_horizon=config.model.action_horizon,
        window_size=config.model.window_size,
        batch_size=config.train.batch_size,
    )
    leading = (config.train.batch_size, config.model.window_size)
    for name in images:
        batch["observation"][name] = np.zeros((*leading, *shapes[name]), np.uint8)
    batch["rho"] = np.zeros(leading, np.float32)
    pretrained = config.model.pretrained
    if not pretrained:
        return batch, small_model(config, batch)
    if Path(pretrained).is_dir():
        source = checkpoint.read_config(Path(pretrained))
    else:
        source = published_config(pretrained.rsplit("/", 1)[-1])
    if words := source.get("text_processor"):
        length: int = {**DEFAULTS, **(words["kwargs"].get("tokenizer_kwargs") or {})}["max_length"]
        ids = np.zeros((config.train.batch_size, length), np.int64)
        batch["task"] = {
            "language_instruction": {"input_ids": ids, "attention_mask": ids},
            "pad_mask_dict": {"language_instruction": np.ones(config.train.batch_size, bool)},
        }
    return batch, adapted_config(source, config, batch)
