"""The training loop of every backend.

Every random number comes from the seed, and a saved state holds all that a step depends on. A run that is killed at any
moment and resumed ends with the same parameters, bit for bit, as one that was not.
"""

from __future__ import annotations

import abc
import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from gap_vla.core.progress import Progress, duration
from gap_vla.rlds.store import EpisodeStore
from gap_vla.training.config import TrainConfig
from gap_vla.training.run_directory import DivergedError, MetricsWriter, RunDirectory

Observer = Callable[["Trainer", int, Any], None]
"""`observe(trainer, steps done, the last step's batch)`: called as training begins, with None, and after each step."""


class Measured(NamedTuple):
    """What a step measured: numbers that may still be computed, and are waited for when they are looked at.

    Attributes:
        values: all measurements of a step that was asked to measure, by name.
    """

    loss: Any
    gradient_norm: Any
    values: Callable[[], dict[str, float]]


class Trainer(abc.ABC):
    """What a backend gives to the loop: a model, its optimizer and its data.

    Attributes:
        steps: length of the training.
        compiles: whether the first step takes as long as many later ones.
        looks_back: whether a step's loss can be looked at during the next one without slowing that down.
    """

    steps: int
    compiles: bool = False
    looks_back: bool = True

    @classmethod
    @abc.abstractmethod
    def on(cls, config: Any, store: EpisodeStore) -> Trainer:
        """Of a configuration of its backend, on the episodes of a store."""

    @classmethod
    @abc.abstractmethod
    def dry_run(cls, config: Any, shapes: Mapping[str, Sequence[int]]) -> str:
        """What would be trained, without data and weights; `shapes` of a step's fields."""

    @abc.abstractmethod
    def describe(self) -> str:
        """What will be trained, and what GAP adjusts."""

    @abc.abstractmethod
    def picture(self) -> Mapping[str, Any] | None:
        """The first batch for `gap_vla.drawing.batch`; None where nothing is seen."""

    @abc.abstractmethod
    def restore(self, folder: Path) -> int:
        """Opens the folder of saved states and goes back to the newest; returns its number of steps, 0 without one."""

    @abc.abstractmethod
    def save(self, done: int) -> None:
        """Begins to save the state after `done` steps; a kill meanwhile leaves the one before."""

    def close(self) -> None:  # noqa: B027
        """Returns when all that was saved is on disk; here it is when `save` returns."""

    @abc.abstractmethod
    def batch(self, step: int) -> Any:
        """The batch of the 0-based training step; steps follow one another."""

    @abc.abstractmethod
    def step(self, batch: Any, step: int, measure: bool) -> Measured:
        """Trains on one batch; the step is the same whether or not it measures."""

    @abc.abstractmethod
    def validate(self) -> dict[str, float]:
        """Held-out measurements, by name."""

    @abc.abstractmethod
    def export(self, run: RunDirectory) -> int | None:
        """Writes the trained policy to the run's `checkpoint/`; returns its step where that may hold several."""


def train(
    trainer: Trainer, rhythm: TrainConfig, run: RunDirectory, observe: Observer = lambda *_: None
) -> dict[str, float]:
    """Trains to the last step, from the newest saved state if there is one; `trainer.close` waits for the last one.

    Returns:
        The last held-out measurements; and after how many steps this process took the training up, if it did.

    Raises:
        DivergedError: loss, gradient or a held-out error is not finite.
        KeyboardInterrupt: the state of the last whole step is being written, also where it was the last of all.
    """
    first = done = trainer.restore(run.state)
    if done:
        print(f"train: resumed after step {done}", flush=True)
    metrics = MetricsWriter(run, done)
    held_out: dict[str, float] = {}
    if done == trainer.steps:
        rows = [row for row in metrics.kept if any(name.startswith("val/") for name in row)]
        held_out = {name: value for name, value in rows[-1].items() if name != "step"} if rows else trainer.validate()
    elif done == 0:
        held_out = trainer.validate()
        metrics.write(0, held_out)
    progress = Progress("train", trainer.steps, "step", done)
    saved, started = done, time.perf_counter()
    untimed = done  # the last step that the rate leaves out
    before: Measured | None = None  # of the last step, which may not be finite
    observe(trainer, done, None)
    with StopRequest() as stop, contextlib.closing(metrics):
        while done < trainer.steps and not stop.requested:
            batch = trainer.batch(done)
            last = done + 1 == trainer.steps
            logged = (done + 1) % rhythm.log_every == 0 or last
            measured = trainer.step(batch, done, measure=logged)
            if before and trainer.looks_back:
                _require_finite(before, done)
            done += 1
            before = measured
            observe(trainer, done, batch)
            compiled = trainer.compiles and done == first + 1
            saving = done % rhythm.save_every == 0 or last
            validating = done % rhythm.validate_every == 0 or last
            if logged or saving or validating:  # what is not finite is never saved
                _require_finite(measured, done)
            if compiled:
                print(f"train: first step after {duration(time.perf_counter() - started)} (compilation)", flush=True)
                progress.close()
                progress, untimed = Progress("train", trainer.steps, "step", done), done
            if logged:
                values = measured.values()
                rate = {"train/steps_per_second": progress.rate(done)} if done > untimed else {}
                metrics.write(done, {**values, **rate})
                progress.update(done, f"loss {values['train/loss']:.4f}")
            if validating:
                held_out = trainer.validate()
                metrics.write(done, held_out)
                shown = ", ".join(f"{k.removeprefix('val/')} {v:.4f}" for k, v in held_out.items())
                print(f"validation after step {done}: {shown}", flush=True)
            if saving:
                trainer.save(done)
                saved = done
    if done < trainer.steps or stop.requested:
        if before and saved < done:
            _require_finite(before, done)
            trainer.save(done)
        raise KeyboardInterrupt(f"step {done} is saved, go on with --resume")
    progress.close()
    return {**held_out, "resumed_after": first} if first else held_out


def _require_finite(measured: Measured, step: int) -> None:
    loss, gradient = float(measured.loss), float(measured.gradient_norm)
    if not (math.isfinite(loss) and math.isfinite(gradient)):
        raise DivergedError(
            f"the loss is {loss} and the gradient's norm {gradient} at step {step}; look for extreme values in the "
            "data, or lower optimizer.learning_rate"
        )


class StopRequest:
    """Within this context, the first SIGINT or SIGTERM sets `requested`; a second one does what it does outside.

    Outside the main thread signals cannot be caught; there `requested` stays False.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._outside: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.__exit__()
        print("\nstopping after this step (once more to stop at once) …", flush=True)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._outside = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._outside.items():
            signal.signal(number, handler)
