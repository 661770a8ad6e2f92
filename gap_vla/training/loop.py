"""The training loop of Octo: short enough to read in one sitting.

Every random number comes from the seed, and a checkpoint holds all that a step depends on. A run that is killed at any
moment and resumed ends with the same parameters, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import UserError
from gap_vla.core.progress import Progress, duration
from gap_vla.core.whole import replacing
from gap_vla.training.checkpoints import StateCheckpoints
from gap_vla.training.config import TrainConfig
from gap_vla.training.hosts import is_first_host
from gap_vla.training.interrupt import StopRequest
from gap_vla.training.metrics import MetricsWriter, NoMetrics
from gap_vla.training.step import DeviceFactors, TrainState, TrainStep


class DivergedError(UserError, RuntimeError):
    """The loss is not finite; the batch is saved."""


class Loader(Protocol):
    """An endless, resumable source of batches."""

    def __iter__(self) -> Iterator[Any]: ...

    def state(self) -> Any:
        """Position after the batch that was handed out last; JSON-able."""

    def restore(self, state: Any) -> None:
        """Goes on from a position."""


def train(
    config: TrainConfig,
    schedule: AdjustmentSchedule,
    state: TrainState,
    step: TrainStep,
    loader: Loader,
    validate: Callable[[Any], dict[str, float]],
    checkpoints: StateCheckpoints,
    metrics_file: Path,
    tensorboard: Path,
    inputs: Callable[[Any], Any],
    place: Callable[[Any], Any] = jax.device_put,
) -> tuple[TrainState, dict[str, float]]:
    """Trains to `config.steps` from the newest checkpoint, or from `state`.

    Args:
        step: the compiled step; at logging steps it also measures the parts of the gradient by ρ.
        validate: parameters to held-out measurements.
        inputs: a loader's batch to the step's arguments.
        place: puts them on the device mesh.

    Returns:
        The final state, and the last held-out measurements with `steps_per_second` of this process.

    Raises:
        DivergedError: the loss or the gradient became NaN or infinite; the batch lies beside the metrics as
            `bad_batch.npz`.
        KeyboardInterrupt: after the checkpoint of the last whole step was written.
    """
    done = 0
    if checkpoints.latest is not None:
        state, loader_state = checkpoints.restore(state)
        loader.restore(loader_state)
        done = int(state.step)
        print(f"train: resumed after step {done}", flush=True)
    metrics = MetricsWriter(metrics_file, tensorboard, start_step=done) if is_first_host() else NoMetrics()
    progress = Progress("train", config.steps, "step", done)
    held_out = validate(state.params)
    if done == 0:
        metrics.write(0, held_out)
    batches = iter(loader)
    pending: tuple[Any, Any] | None = None  # last batch and what was measured on it, looked at during the next step
    started = time.monotonic()
    with StopRequest() as stop, contextlib.closing(metrics):
        while done < config.steps and not stop.requested:
            batch = inputs(next(batches))
            factors = schedule.factors(batch["rho"], done, config.steps, batch["observation"]["timestep_pad_mask"])
            logged = (done + 1) % config.log_every == 0 or done + 1 == config.steps
            factors_on_device = DeviceFactors(place(factors.sample), factors.gradient, factors.update)
            placed = place(batch)
            if pending is None:
                step.compile(state, placed, factors_on_device)
            state, measured = step(state, placed, factors_on_device, split=logged)
            done += 1
            if pending:
                _require_finite(*pending, done - 1, metrics_file.parent)
            pending = (batch, measured)
            if done == 1:
                jax.block_until_ready(measured)
                print(
                    f"train: first step after {duration(time.monotonic() - started)} (compilation)",
                    flush=True,
                )
                progress = Progress("train", config.steps, "step", done)
            last = done == config.steps
            save = done % config.save_every == 0 or last or stop.requested
            if logged or save:  # what is not finite is never saved
                _require_finite(*pending, done, metrics_file.parent)
            if logged:
                values = {f"train/{k}": float(v) for k, v in measured.items()}
                values["train/steps_per_second"] = progress.rate(done)
                real = np.asarray(batch["observation"]["timestep_pad_mask"], bool)  # padded steps learn nothing
                values["gap/sample_factor"] = float(factors.sample[real].mean())
                values["gap/update_factor"] = float(factors.update)
                metrics.write(done, values)
                progress.update(done, f"loss {values['train/loss']:.4f}", force=last)
            if done % config.validate_every == 0 or last:
                held_out = validate(state.params)
                metrics.write(done, held_out)
                shown = ", ".join(f"{k.removeprefix('val/')} {v:.4f}" for k, v in held_out.items())
                print(f"validation after step {done}: {shown}", flush=True)
            if save:
                checkpoints.save(done, state, loader.state())
    checkpoints.wait()
    if done < config.steps:
        raise KeyboardInterrupt(f"step {done} is saved, go on with --resume")
    return state, {**held_out, "steps_per_second": progress.rate(done)}


def _require_finite(batch: Any, measured: Mapping[str, jax.Array], step: int, folder: Path) -> None:
    loss, gradient = float(measured["loss"]), float(measured["grad_norm"])
    if np.isfinite(loss) and np.isfinite(gradient):
        return
    flat = {"/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]}
    with replacing(folder / "bad_batch.npz") as temporary:
        np.savez(temporary.open("wb"), **flat)
    raise DivergedError(
        f"the loss is {loss} and the gradient's norm {gradient} at step {step}; the batch is saved as "
        f"{folder / 'bad_batch.npz'}{_not_finite(flat)}. "
        "Look at it for extreme values; if it is ordinary, lower optimizer.learning_rate"
    )


def _not_finite(flat: Mapping[str, Any]) -> str:
    bad = [name for name, leaf in flat.items() if not np.isfinite(np.asarray(leaf, np.float64)).all()]
    return f" (not finite: {', '.join(bad)})" if bad else ""
