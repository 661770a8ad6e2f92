"""The folder of one training run: never overwritten, and resumed only with the settings that it is trained with.

config.json        resolved configuration            dataset.json  what the data were made from
first_batch.png    what the model saw, with ρ        metrics.jsonl, tensorboard/   what was measured while training
state/             resumable states                  checkpoint/   the trained policy
rollouts/          videos, a line per episode        summary.json  written last: the run is complete
report.html        one page: success, videos, curves, ρ over a demonstration, how far episodes got

| settings | part of | changed with `--resume` |
|---|---|---|
| `NO_PART_OF_THE_RESULT`: folders, workers, videos, rhythm, device, logger | nothing | the run goes on |
| the other `eval.*` | what is measured | training goes on; rollouts that are there are set aside and made again |
| everything else | what is trained | refused: that is another run, in another directory |
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.errors import ConfigError, UserError
from gap_vla.core.files import read_json, write_json
from gap_vla.core.identity import differences, flat, in_words

NO_PART_OF_THE_RESULT = {
    "runs",
    "data.root",
    "eval.workers",
    "eval.videos",
    "train.log_every",
    "train.validate_every",
    "train.save_every",
    "train.threads",
    "train.device",
    "train.logger",
}
"""Folders, workers, rhythm, device, logger. (With other threads or on another device, sums are rounded otherwise.)"""


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
        for number in itertools.count(1):
            aside = {path: path.with_name(f"{path.stem}-earlier-{number}{path.suffix}") for path in self._measured}
            if not any(path.exists() for path in aside.values()):
                break
        for path, kept in aside.items():
            if path.exists():
                path.rename(kept)
                print(f"resume: the earlier {path.name} is kept as {kept.name}", flush=True)

    @property
    def _measured(self) -> tuple[Path, Path]:
        return self.summary, self.rollouts  # the summary first: it says that the run is complete


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Every whole line of a `metrics.jsonl`, oldest first; a last one that a kill cut off is left out."""
    return [json.loads(line) for line in Path(path).read_text().split("\n")[:-1]]


def since(summary: Mapping[str, Any]) -> str:
    """What to write behind the seconds of a run that was taken up again, which are those of its last call.

    >>> since({"training": {"resumed_after": 2_000_000}})
    ' since step 2000000'
    """
    step = summary.get("training", {}).get("resumed_after")
    return f" since step {step}" if step else ""
