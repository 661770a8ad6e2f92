"""What a training measures, as rows of `metrics.jsonl`, in TensorBoard, and given to a logger."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.files import replacing
from gap_vla.training.hosts import is_first_host
from gap_vla.training.run_directory import RunDirectory, read_metrics


class DivergedError(UserError):
    """A measurement is not finite."""


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard, and gives them to the logger; on the first host alone.

    Args:
        start_step: training steps done so far; rows after it are dropped, since they will be measured again.
        logger: `train.logger`; a run of the same name is begun there, or taken up again. Hosts, keys and working
            without a network are settings of that package.

    Attributes:
        kept: rows of the steps done so far.
    """

    def __init__(self, run: RunDirectory, start_step: int = 0, logger: str = "none"):
        self.kept: list[dict[str, Any]] = []
        self._active = is_first_host()
        if not self._active:
            return
        from tensorboardX import SummaryWriter

        if start_step and run.metrics.exists():
            self.kept = [row for row in read_metrics(run.metrics) if row["step"] <= start_step]
        with replacing(run.metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.kept))
        self._lines = run.metrics.open("a")
        self._board = SummaryWriter(str(run.tensorboard), purge_step=start_step + 1 if start_step else None)
        self._logger = None if logger == "none" else importlib.import_module(logger)
        if self._logger:
            config = run.read_config()
            how = {"id": run.path.name} if logger == "wandb" else {}  # trackio knows a run by its name
            self._logger.init(
                project=f"gap_vla-{config['task']}", name=run.path.name, config=config, resume="allow", **how
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` after `step` training steps, on disk when this returns; DivergedError: one is not finite."""
        found = {name: float(value) for name, value in values.items()}
        if odd := [name for name, value in found.items() if not np.isfinite(value)]:
            raise DivergedError(
                f"{odd[0]} is {found[odd[0]]} after step {step}; look for extreme values in the data, or lower "
                "optimizer.learning_rate"
            )
        if not self._active:
            return
        self._lines.write(json.dumps({"step": step, **found}) + "\n")
        self._lines.flush()
        for name, value in found.items():
            self._board.add_scalar(name, value, step)
        self._tell("log", found, step=step)

    def close(self) -> None:
        if self._active:
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
