"""Octo in training on windows of an episode store: the model, its optimizer and GAP put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.run_directory import RunDirectory
from gap_vla.octo import OctoModel
from gap_vla.octo.optimizer import join_frozen
from gap_vla.rlds import EpisodeStore
from gap_vla.training.checkpoints import StateCheckpoints
from gap_vla.training.data import make_loader, require_rho
from gap_vla.training.hosts import is_first_host
from gap_vla.training.loop import Measured, Trainer
from gap_vla.training.mesh import gather, make_mesh, place_batch, place_state, state_shardings
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_model import Built, build, describe, dry_run, planned
from gap_vla.training.step import DeviceFactors, TrainState, TrainStep
from gap_vla.training.validation import make_validation_step, validate

SHORT_RUN = 200
"""Training steps up to which compiling quickly saves more than it costs."""


class Loader(Protocol):
    """An endless, resumable source of batches."""

    def __iter__(self) -> Iterator[Any]: ...

    def state(self) -> Any:
        """Position after the batch that was handed out last; JSON-able."""

    def restore(self, state: Any) -> None:
        """Goes on from a position."""

    def peek(self) -> Any:
        """The next batch, without moving on."""


class JaxTrainer(Trainer):
    """Anything that `TrainStep` trains.

    Args:
        schedule: the adjustment during the `steps` of training.
        state: before the first step.
        step: the compiled step; at logging steps it also measures the parts of the gradient by ρ.
        validate: parameters to held-out measurements.
        layout: which number of the packed parameters means what (`Packing.identity`).
        inputs: a loader's batch to the step's arguments.
        place: puts them on the device mesh.
    """

    compiles = True

    def __init__(
        self,
        schedule: AdjustmentSchedule,
        steps: int,
        state: TrainState,
        step: TrainStep,
        loader: Loader,
        validate: Callable[[Any], dict[str, float]],
        layout: str,
        inputs: Callable[[Any], Any] = lambda batch: batch,
        place: Callable[[Any], Any] = jax.device_put,
    ):
        self.schedule, self.steps, self.state, self.loader = schedule, steps, state, loader
        self._step, self._validate, self._layout = step, validate, layout
        self._inputs, self._place = inputs, place
        self._checkpoints: StateCheckpoints | None = None
        self._batches: Iterator[Any] | None = None
        self._compiled = False

    def restore(self, folder: Path) -> int:
        self._checkpoints = StateCheckpoints(folder, self._layout)
        if self._checkpoints.latest is None:
            return 0
        self.state, position = self._checkpoints.restore(self.state)
        self.loader.restore(position)
        return int(self.state.step)

    def save(self, done: int) -> None:
        assert self._checkpoints is not None
        self._checkpoints.save(done, self.state, self.loader.state())

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()

    def batch(self, step: int) -> Any:
        self._batches = self._batches or iter(self.loader)
        return self._inputs(next(self._batches))

    def step(self, batch: Any, step: int, measure: bool) -> Measured:
        mask = batch["observation"]["timestep_pad_mask"]
        factors = self.schedule.factors(batch["rho"], step, self.steps, mask)
        on_device = DeviceFactors(self._place(factors.sample), factors.gradient, factors.update)
        placed = self._place(batch)
        if not self._compiled:
            self._step.compile(self.state, placed, on_device)
            self._compiled = True
        self.state, measured = self._step(self.state, placed, on_device, split=measure)

        def values() -> dict[str, float]:
            real = np.asarray(mask, bool)  # padded steps learn nothing
            adjusted = {
                "gap/sample_factor": float(factors.sample[real].mean()),
                "gap/update_factor": float(factors.update),
            }
            return {f"train/{name}": float(value) for name, value in measured.items()} | adjusted

        return Measured(measured["loss"], measured["grad_norm"], values)

    def validate(self) -> dict[str, float]:
        return self._validate(self.state.params)

    def arrays(self, batch: Any) -> dict[str, np.ndarray]:
        leaves = jax.tree_util.tree_flatten_with_path(batch)[0]
        return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


class OctoTrainer(JaxTrainer):
    """The Octo of a configuration.

    Args:
        built: before the first step.
        loader: endless training batches.
        held_out: validation batches.
    """

    def __init__(self, config: FinetuneConfig, built: Built, loader: Any, held_out: Iterable[Any]):
        self.config, self.built = config, built
        self.mesh = mesh = make_mesh(config.train.fsdp, config.train.batch_size // config.train.accumulate)
        shardings = state_shardings(mesh, built.state)
        frozen = built.parameters.frozen
        self.frozen = place_state(frozen, state_shardings(mesh, frozen))
        step = TrainStep(
            built.model.module,
            built.tx,
            built.packing,
            built.adam,
            self.frozen,
            config.train.accumulate,
            shardings=shardings if mesh.size > 1 else None,
            quick=config.train.steps <= SHORT_RUN,
        )
        measure = make_validation_step(built.model.module, built.packing, self.frozen)
        measured_on = [built.inputs(batch) for batch in held_out]
        super().__init__(
            config.schedule,
            config.train.steps,
            place_state(built.state, shardings),
            step,
            loader,
            lambda params: validate(measure, params, measured_on, config.train.seed),
            built.packing.identity,
            built.inputs,
            lambda batch: place_batch(mesh, batch),
        )

    @classmethod
    def on(cls, config: FinetuneConfig, store: EpisodeStore) -> OctoTrainer:
        """On the episodes of a store.

        Raises:
            ConfigError: GAP is asked for, and they have no ρ.
        """
        require_rho(config, store)
        loader = make_loader(config, store, "train", train=True)
        built = build(config, loader.peek(), store.statistics)
        return cls(config, built, loader, make_loader(config, store, "val", train=False))

    @classmethod
    def dry_run(cls, config: FinetuneConfig) -> str:
        account, pretrained = dry_run(config, *planned(config)), config.model.pretrained
        return f"pretrained weights: {pretrained} (not read in a dry run)\n{account}" if pretrained else account

    def describe(self) -> str:
        return describe(self.config, self.built.parameters, self.built.state.opt_state)

    def picture(self) -> Mapping[str, Any]:
        return self.loader.peek()

    def model(self) -> OctoModel:
        """The model with the parameters of now."""
        trained = self.built.packing.unpack(gather(self.mesh, self.state.params))
        return self.built.model.replace(params=join_frozen(trained, gather(self.mesh, self.frozen)))

    def export(self, run: RunDirectory) -> None:
        """In upstream's layout; a run that was stopped during its rollouts has it."""
        model = self.model()
        if is_first_host() and not (run.checkpoint / str(self.steps)).exists():
            model.save_pretrained(step=self.steps, checkpoint_path=str(run.checkpoint))
