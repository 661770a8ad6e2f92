"""Octo in training on windows of an episode store: the model, its optimizer and GAP put together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxtyping import Float

from gap_vla.adjustment.account import account
from gap_vla.core.files import replacing
from gap_vla.octo.model import OctoModel
from gap_vla.octo.optimizer import join_frozen
from gap_vla.phases.targets import is_transition
from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.loader import Batch, WindowLoader
from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import EpisodeStore, StoreSplit
from gap_vla.training.data import has_rho
from gap_vla.training.loop import Measured, Trainer
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_model import build, describe, dry_run
from gap_vla.training.packing import Packing, make_mesh, place_batch, state_shardings
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.step import TrainState, TrainStep, counted_entries

SHORT_RUN = 200
"""Training steps up to which compiling quickly saves more than it costs."""

LOSSES = ("val/loss", "val/loss_transition", "val/loss_consistent")
"""Of all held-out steps, of those with ρ > 0.5, and of the others."""


class OctoTrainer(Trainer):
    """The Octo of a configuration.

    Attributes:
        built: before the first step.
        state: all that a step changes.
        train_step: the compiled step.
    """

    compiles = True

    def __init__(self, config: FinetuneConfig, store: EpisodeStore):
        self.config, self.schedule, self.steps = config, config.schedule, config.train.steps
        self.loader = make_loader(config, store, "train", train=True)
        self.built = built = build(config, self.loader.peek(), store.statistics)
        self.mesh = make_mesh(config.train.fsdp, config.train.batch_size)
        shardings = state_shardings(self.mesh, built.state)
        self.state = jax.device_put(built.state, shardings)
        frozen = built.parameters.frozen
        self.frozen = jax.device_put(frozen, state_shardings(self.mesh, frozen))
        self.train_step = TrainStep(
            built.model.module,
            built.tx,
            built.packing,
            built.learning_rate,
            self.frozen,
            shardings=shardings if self.mesh.size > 1 else None,
            quick=config.train.steps <= SHORT_RUN,
        )
        actions = store.statistics["action"]
        mean = normalize(np.asarray(actions["mean"]), actions, config.data.normalization)
        self._validation_step = make_validation_step(built.model.module, built.packing, mean)
        self._held_out = make_loader(config, store, "val", train=False) if "val" in store.splits else ()
        self._has_rho = has_rho(store)
        self._start = {name: jnp.copy(self.state.params[name]) for name in built.packing.group_labels}
        self._moved = jax.jit(lambda now, start: optax.global_norm(jax.tree.map(jnp.subtract, now, start)))
        self._account: list[str] = []
        if self._has_rho:
            data, horizon = store.split("train"), config.model.action_horizon
            points = data.fields.get("change_point")
            self._account = account(self.schedule, data.fields["rho"], points, data.offsets, horizon)
        self._states: ocp.CheckpointManager | None = None
        self._batches: Iterator[Any] | None = None

    @classmethod
    def on(cls, config: FinetuneConfig, store: EpisodeStore) -> OctoTrainer:
        return cls(config, store)

    @classmethod
    def dry_run(cls, config: FinetuneConfig, shapes: Mapping[str, Sequence[int]]) -> str:
        return dry_run(config, shapes)

    def describe(self) -> str:
        said = "\n".join([describe(self.config, self.built.parameters), *self._account])
        without = "note: the dataset has no rho; steps of training are not split by it in what is measured"
        return said if self._has_rho else f"{said}\n{without}"

    def picture(self) -> Mapping[str, Any]:
        return self.loader.peek()

    def restore(self, folder: Path) -> int:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=True)
        self._states = ocp.CheckpointManager(folder.absolute(), options=options)
        if (step := self._states.latest_step()) is None:
            return 0
        abstract = jax.tree_util.tree_map(ocp.utils.to_shape_dtype_struct, vars(self.state))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), loader=ocp.args.JsonRestore())
        found = self._states.restore(step, args=args)
        self.state = TrainState(**found["state"])
        self.loader.restore(found["loader"])
        return int(step)

    def save(self, done: int) -> None:
        assert self._states is not None
        state, loader = ocp.args.StandardSave(vars(self.state)), ocp.args.JsonSave(self.loader.state())
        self._states.save(done, args=ocp.args.Composite(state=state, loader=loader))

    def close(self) -> None:
        if self._states is not None:
            self._states.close()

    def batch(self, step: int) -> Any:
        self._batches = self._batches or iter(self.loader)
        return self.built.inputs(next(self._batches))

    def step(self, batch: Any, step: int, measure: bool) -> Measured:
        rho, mask = batch["rho"], np.asarray(batch["observation"]["timestep_pad_mask"], bool)
        if self.schedule.of_targets:
            rho, mask = batch["target_rho"], mask[..., None] & np.asarray(batch["action_pad_mask"]).any(-1)
        factors = self.schedule.factors(rho, step, self.steps, mask)
        on_device = dataclasses.replace(factors, sample=place_batch(self.mesh, factors.sample))
        placed = place_batch(self.mesh, {key: value for key, value in batch.items() if key != "target_rho"})
        self.state, measured = self.train_step(self.state, placed, on_device, split=measure and self._has_rho)
        if measure and self._start:
            measured["branch_moved"] = self._moved({name: self.state.params[name] for name in self._start}, self._start)

        def values() -> dict[str, float]:
            real = mask if factors.sample.shape == mask.shape else mask.any(-1)  # padding learns nothing
            adjusted = {
                "gap/sample_factor": float(factors.sample[real].mean()),
                "gap/update_factor": float(factors.update),
            }
            adjusted |= {"gap/gradient_factor": float(factors.gradient)} if self.schedule.mode == "batch" else {}
            return {f"train/{name}": float(value) for name, value in measured.items()} | adjusted

        return Measured(measured["loss"], measured["grad_norm"], values)

    def validate(self) -> dict[str, float]:
        """Means over all held-out windows; a diffusion head draws the same noise at every validation.

        Returns:
            `LOSSES`, `val/action_mse`, and `val/mean_action_mse`, what always predicting the training episodes' mean
            action would give. The loss of no step is left out, and without ρ those of transitions and others.
        """
        totals: dict[str, float] = {}
        losses: Sequence[str] = LOSSES
        for index, held_out in enumerate(self._held_out):  # read again, not kept: they may be many
            losses, batch = LOSSES if "rho" in held_out else LOSSES[:1], self.built.inputs(held_out)
            rng = jax.random.fold_in(jax.random.PRNGKey(self.config.train.seed), index)
            for name, value in self._validation_step(self.state.params, self.frozen, batch, rng).items():
                totals[name] = totals.get(name, 0.0) + float(np.asarray(value, np.float64))
        if not totals:
            return {}
        results = {name: totals[name] / count for name in losses if (count := totals[f"entries of {name}"])}
        results["val/action_mse"] = totals["action_error"] / totals["action_entries"]
        results["val/mean_action_mse"] = totals["mean_action_error"] / totals["action_entries"]
        return results

    def model(self) -> OctoModel:
        """The model with the parameters of now."""
        trained = self.built.packing.unpack(jax.device_get(self.state.params))
        return dataclasses.replace(self.built.model, params=join_frozen(trained, jax.device_get(self.frozen)))

    def export(self, run: RunDirectory) -> int:
        """In upstream's layout."""
        with replacing(run.checkpoint) as made:
            self.model().save_pretrained(step=self.steps, checkpoint_path=str(made))
        return self.steps


def make_loader(config: FinetuneConfig, store: EpisodeStore, split: str, train: bool) -> WindowLoader:
    """Windows of one split as this configuration wants them; pictures are changed in training only."""
    images = tuple(f"image_{camera}" for camera in config.demos.cameras)
    augment, change = {key: one for key, one in config.data.augment.of_images.items() if key in images}, None
    if config.data.shuffle_images and train:
        change = functools.partial(shuffled_images, store.split(split), config.train.seed, augment)
        augment = {}
    return WindowLoader(
        store,
        split=split,
        window_size=config.model.window_size,
        action_horizon=config.model.action_horizon,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        image_keys=images,
        proprio=config.uses_proprio,
        proprio_history=config.model.proprio_history,
        normalization=config.data.normalization,
        rho=has_rho(store),
        target_rho=config.schedule.of_targets and train,
        language=bool(config.model.pretrained),
        train=train,
        augment=augment,
        change=change,
    )


def shuffled_images(
    data: StoreSplit, seed: int, augment: Mapping[str, Augmentation], number: int, batch: Batch
) -> Batch:
    """A control that cannot see: the batch with the pictures of an episode drawn at random for each window.

    They are those of the same steps, or the last of a shorter episode; they tell how far an episode has got, nothing of
    this one's layout. Once in as many windows as there are episodes, a window keeps its own.

    Args:
        data: the split that the windows are of.
        seed: of the drawing, together with the batch's `number`.
        augment: `image_<camera>` to the random changes of the pictures that are shown instead.
    """
    timestep, offsets = batch["observation"]["timestep"], data.offsets
    rng = np.random.default_rng([seed, number])
    drawn = rng.integers(len(offsets) - 1, size=len(timestep))
    step = np.minimum(offsets[drawn][:, None] + timestep, offsets[drawn + 1][:, None] - 1)
    cameras = [key for key in batch["observation"] if key.startswith("image_")]
    pictures = {key: np.take(data.fields[key], step, axis=0) for key in cameras}
    if augment:
        draws = rng.random((len(timestep), DRAWS))
        for key, augmentation in augment.items():
            pictures[key] = augmentation(pictures[key], batch["observation"]["timestep_pad_mask"], draws)
    return {**batch, "observation": {**batch["observation"], **pictures}}


def make_validation_step(
    module: Any, packing: Packing, mean_action: Float[np.ndarray, " A"]
) -> Callable[..., dict[str, jax.Array]]:
    """The compiled measurement `(packed params, frozen, batch, rng) -> sums`, to be added up over held-out batches.

    Of `LOSSES`, sums over counted action entries, and their number as `entries of <loss>`; `action_error` and
    `mean_action_error` (of predicting the mean action) are summed squared errors at the window's last step, over
    `action_entries` entries.
    """

    def step(params: Any, frozen: Any, batch: Any, rng: jax.Array) -> dict[str, jax.Array]:
        observation = batch["observation"]
        mask = observation["timestep_pad_mask"]
        variables = {"params": join_frozen(packing.unpack(params), frozen)}
        bound = module.bind(variables, rngs={"dropout": rng})
        head = bound.heads["action"]
        outputs = bound.octo_transformer(observation, batch["task"], mask, train=False, only=[head.readout_key])
        transition = is_transition(batch["rho"])
        sums = {}
        for name, chosen in zip(LOSSES, (jnp.ones_like(mask), transition, ~transition), strict=True):
            counted = batch["action_pad_mask"] & chosen[:, :, None, None]
            entries = counted_entries({**batch, "action_pad_mask": counted})
            again = module.bind(variables, rngs={"dropout": rng})  # anew, so that a diffusion head draws the same noise
            loss, _ = again.heads["action"].loss(outputs, batch["action"], mask, counted, train=False)
            sums[name], sums[f"entries of {name}"] = loss * entries, entries
        predicted = head.predict_action(outputs, rng=rng, train=False)
        target, counted = batch["action"][:, -1], batch["action_pad_mask"][:, -1]
        sums["action_error"] = jnp.sum(jnp.where(counted, jnp.square(predicted - target), 0.0))
        sums["mean_action_error"] = jnp.sum(jnp.where(counted, jnp.square(target - mean_action), 0.0))
        sums["action_entries"] = jnp.sum(counted.astype(jnp.float32))
        return sums

    return jax.jit(step)
