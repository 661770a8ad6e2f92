"""The folder of one training run: never overwritten, and resumed only with the settings that it is trained with;
and the measurements that are written there.

config.json        resolved configuration            dataset.json  what the data were made from
first_batch.png    what the model saw, with ρ        metrics.jsonl, tensorboard/   what was measured while training
state/             resumable states                  checkpoint/   the trained policy
rollouts/          videos, a line per episode        summary.json  written last: the run is complete
report.html        one page: success, videos, curves, ρ over a demonstration, how far episodes got

| settings | part of | changed with `--resume` |
|---|---|---|
| `NO_PART_OF_THE_RESULT`: folders, workers, videos, rhythm, device | nothing | the run goes on |
| the other `eval.*` | what is measured | training goes on; rollouts that are there are set aside and made again |
| everything else | what is trained | refused: that is another run, in another directory |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import ConfigError, UserError
from gap_vla.core.files import read_json, replacing, write_json
from gap_vla.core.identity import differences, flat, in_words
from gap_vla.report.runs import NO_PART_OF_THE_RESULT, read_metrics


def of_result(config: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, everything that can change what is trained or measured."""
    return {key: value for key, value in flat(config) if key not in NO_PART_OF_THE_RESULT}


def of_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, everything that can change what is trained."""
    return {key: value for key, value in of_result(config).items() if not key.startswith("eval.")}


class RunDirectory:
    """Paths of one run; see the module."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.dataset = self.path / "dataset.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.first_batch = self.path / "first_batch.png"
        self.state = self.path / "state"
        self.checkpoint = self.path / "checkpoint"
        self.rollouts = self.path / "rollouts"
        self.summary = self.path / "summary.json"
        self.page = self.path / "report.html"
        self.lock = self.path / ".lock"

    @property
    def complete(self) -> bool:
        return self.summary.exists()

    def complete_with(self, config: Mapping[str, Any]) -> bool:
        """Whether it is complete, and was trained and measured as this configuration says."""
        return self.complete and self.config.exists() and of_result(self.read_config()) == of_result(config)

    def read_config(self) -> dict[str, Any]:
        """The configuration."""
        return {key: value for key, value in read_json(self.config).items() if key != "earlier"}  # 0.2 noted changes

    @classmethod
    def claim(
        cls, path: Path | str, config: Mapping[str, Any], resume: bool, dataset: Mapping[str, Any] | None = None
    ) -> RunDirectory:
        """Begins a run, or takes an existing one up again.

        Args:
            config: the resolved configuration.
            dataset: what the data are made from, versions of the code that makes them included.

        Raises:
            ConfigError: the run was trained with another configuration or on other data; the keys are named.
            UserError: it exists, and `resume` is False.
        """
        run, dataset = cls(path), json.loads(json.dumps(dataset))
        if not run.config.exists():
            if dataset is not None:
                write_json(run.dataset, dataset)
            write_json(run.config, config)
            return run
        stored = run.read_config()
        changed = differences(of_training(stored), of_training(config))
        if dataset is not None and run.dataset.exists():
            changed |= differences(read_json(run.dataset), dataset)
        if changed:
            raise ConfigError(
                f"{run.path} was trained with other settings or data ({in_words(changed)}); "
                "resume with the same ones, or start another run with --run-name NAME"
            )
        if not resume:
            raise UserError(
                f"{run.path} holds a {'finished' if run.complete else 'started'} run; "
                "pass --resume to go on with it, or --run-name NAME to start another"
            )
        if of_result(stored) != of_result(config):
            run._set_rollouts_aside()
        write_json(run.config, config)
        return run

    def _set_rollouts_aside(self) -> None:
        """Keeps the summary and the rollouts of other settings under other names."""
        number = 1 + len([*self.path.glob("rollouts-earlier-*")])
        for path in (self.summary, self.rollouts):  # the summary first: it says that the run is complete
            if path.exists():
                kept = path.rename(path.with_name(f"{path.stem}-earlier-{number}{path.suffix}"))
                print(f"resume: the earlier {path.name} is kept as {kept.name}", flush=True)


class DivergedError(UserError):
    """A measurement is not finite."""


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard.

    Args:
        start_step: training steps done so far; rows after it are dropped, since they will be measured again.

    Attributes:
        kept: rows of the steps done so far.
    """

    def __init__(self, run: RunDirectory, start_step: int = 0):
        from tensorboardX import SummaryWriter

        self.kept: list[dict[str, Any]] = []
        if start_step and run.metrics.exists():
            self.kept = [row for row in read_metrics(run.metrics) if row["step"] <= start_step]
        with replacing(run.metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.kept))
        self._lines = run.metrics.open("a")
        self._board = SummaryWriter(str(run.tensorboard), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` after `step` training steps, on disk when this returns; DivergedError: one is not finite."""
        found = {name: float(value) for name, value in values.items()}
        if odd := [name for name, value in found.items() if not np.isfinite(value)]:
            raise DivergedError(
                f"{odd[0]} is {found[odd[0]]} after step {step}; look for extreme values in the data, or lower "
                "optimizer.learning_rate"
            )
        self._lines.write(json.dumps({"step": step, **found}) + "\n")
        self._lines.flush()
        for name, value in found.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._lines.close()
        self._board.close()
