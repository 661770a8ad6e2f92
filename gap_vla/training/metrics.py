"""What a training measures, as rows of `metrics.jsonl`: written, taken up again, and missed where they are lost."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.foreign import Section
from gap_vla.core.measurements import hole, read_metrics
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import replacing
from gap_vla.training.config import LOGGERS

ANOTHER_MACHINE = 1e-2
"""Share by which a held-out error may differ from what was written of it, as sums are rounded elsewhere."""


class DivergedError(UserError, RuntimeError):
    """A measurement is not finite; the batch of such a loss is saved."""


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard, and gives them to the logger, if there is one.

    Args:
        start_step: number of training steps done so far; rows after it are dropped first (they will be measured again),
            and all of them where nothing was saved before.
        logger: `train.logger`; a run of the same name is begun there, or taken up again. Hosts, keys and working
            without a network are settings of that package.
    """

    def __init__(self, run: RunDirectory, start_step: int = 0, logger: str = "none"):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event

        there = read_metrics(run.metrics) if start_step and run.metrics.exists() else []
        self._run, self.kept = run, [row for row in there if row["step"] <= start_step]
        if start_step and not self.kept:
            print(f"note: {run.metrics} holds nothing of the first {start_step} steps; curves begin here", flush=True)
        self._ends = [*self.kept[:1], *self.kept[-1:]]
        with replacing(run.metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.kept))
        self._lines = run.metrics.open("a")
        self._place = os.fstat(self._lines.fileno())
        self._size = self._place.st_size
        run.tensorboard.mkdir(parents=True, exist_ok=True)
        self._event, self._board = Event, EventsWriter(str(run.tensorboard / "events"))  # no thread: it dies unheard
        self._show(step=start_step + 1, session_log={"status": "START"})  # what an earlier call showed from there goes
        self._logger = importlib.import_module(logger) if logger in LOGGERS else None
        if self._logger:
            config = run.read_config()
            how = {"resume": "allow"}
            if logger == "wandb":  # knows a run by its id, trackio by its name; one that was begun anew is another
                how["id"] = f"{run.path.name}-{run.dataset.stat().st_mtime_ns}"
            try:
                self._logger.init(project=f"gap_vla-{config['task']}", name=run.path.name, config=config, **how)
            except Exception as error:
                advice = "--resume --config.train.logger=none goes on without it"
                raise ConfigError(f"train.logger: {logger} cannot begin ({message_of(error)}); {advice}") from None

    @property
    def ends(self) -> list[dict[str, float]]:
        """First and last row that are there, without what is another number each time."""
        return [{name: x for name, x in row.items() if name != "train/steps_per_second"} for row in self._ends]

    def require_there(self) -> None:
        """Raises UserError if the run was moved, or this file cut, or another put into its place, as editors do."""
        self._run.require_there()
        found = self._run.metrics.stat()
        if not os.path.samestat(self._place, found) or found.st_size < self._size:
            raise UserError(
                f"{self._run.metrics} was replaced or cut meanwhile, as by an editor, and what is measured would be "
                "lost; --resume goes on from the last saved state"
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` after `step` training steps, on disk when this returns; DivergedError: one is not finite."""
        found = {name: float(value) for name, value in values.items()}
        if odd := [name for name, value in found.items() if not np.isfinite(value)]:
            advice = "look for extreme values in the data; if there are none, lower optimizer.learning_rate"
            raise DivergedError(f"{odd[0]} is {found[odd[0]]} after step {step}; {advice}")
        row = {"step": step, **found}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        self._size = self._lines.tell()
        self._ends = [*self._ends[:1], row]
        self._show(step=step, summary={"value": [{"tag": name, "simple_value": x} for name, x in found.items()]})
        self._tell("log", found, step=step)

    def _show(self, **what: Any) -> None:
        self._board.write_event(self._event(wall_time=time.time(), **what))
        self._board.flush()

    def close(self) -> None:
        self._lines.close()
        self._board.close()
        self._tell("finish")

    def _tell(self, what: str, *values: Any, **how: Any) -> None:
        """Training goes on without a logger that fails."""
        try:
            if self._logger:
                getattr(self._logger, what)(*values, **how)
        except Exception as error:
            print(f"train.logger: {what} failed ({message_of(error)}); training goes on without it", file=sys.stderr)
            self._logger = None


def require_own(
    run: RunDirectory, done: int, steps: int, measured: Mapping[str, float], ends: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Raises UserError if `metrics.jsonl` has other held-out errors of the `done` steps of a saved state than are
    `measured` with it, of the last of all `steps` as closely as a report compares, or others of the steps of `ends`,
    rows that the state holds; it is of another training then."""
    names, most = (measured, 1e-3) if done == steps else (("val/action_mse",), ANOTHER_MACHINE)
    own_now = {"step": done, **{name: measured[name] for name in names if name in measured}}
    known: list[tuple[Mapping[str, Any], float]] = [(own_now, most), *((row, 0.0) for row in ends)]
    rows = read_metrics(run.metrics) if done and run.metrics.exists() else ()
    for row, (own, most) in itertools.product(rows, known):
        for name in own.keys() & row.keys() if row["step"] == own["step"] else ():
            if abs(row[name] - own[name]) > most * abs(row[name]):
                found = f"{name} {row[name]:g} of step {own['step']}, where the saved state has {own[name]:g}"
                raise UserError(f"{run.metrics} says {found}; it is of another run: copy it again, or move it away")


def say_what_is_lost(kept: Sequence[Mapping[str, Any]], run: RunDirectory, done: int, steps: int) -> None:
    """One line on stderr if `kept`, the rows up to the `done` steps of a saved state, lack some that belong there.

    A row is written before the state of its step is, so that only a power cut or another hand loses one.
    """
    if kept and done and (lost := hole(kept, Section.read(run.config, ConfigError), done, steps)):
        print(f"note: {run.metrics} lacks {lost}; curves have a hole there", file=sys.stderr, flush=True)
