"""Finished runs as a report reads them, whichever command made them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section
from gap_vla.core.run_directory import RunDirectory, read_metrics
from gap_vla.core.typed_config import SEED, STEPS
from gap_vla.report.comparison import Rollouts, evaluations_of


class ReportError(UserError, ValueError):
    """Something that cannot be reported; the message says what to give instead."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory of `train_small.py` or `finetune.py`.

    Attributes:
        summary: empty while the run is not complete.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path | str) -> Run:
        """
        Raises:
            ReportError: no run directory, or a configuration or a summary that is none.
            EvaluationError: rollouts in it that measured nothing.
        """
        run = RunDirectory(path)
        if not run.config.exists():
            raise ReportError(f"{path} is no run directory (no config.json); give one that lies in runs/TASK/")
        config = Section(run.read_config(ReportError), str(run.config), ReportError)
        own: dict[str, Any] = {"task": config.text("task"), "method": config.text("method")}
        own["seed"] = config.section("train").whole("seed", 0, int(SEED.most))
        found = Section.read(run.summary, ReportError) if run.complete else Section({}, str(run.summary), ReportError)
        if found.values.get("rollouts"):
            found.section("rollouts").section("task", {}).text("variant", "")
        if found.values.get("success") is not None:
            found.finite("success", 0, 1)
        if others := [key for key in own if found.values.get(key, own[key]) != own[key]]:
            raise ReportError(f"{run.summary} is of another {others[0]} than {run.config}; copy the run again")
        found.whole("steps", 0, STEPS, 0)
        for key in ("store", "path"):
            found.section("dataset", {}).text(key, "")
        numbers = [found.section("seconds", {})]
        for name in found.section("variants", {}).values:
            if "videos" in (one := found.section("variants").section(name)):
                one.list("videos", Section.text)
            if one.values.get("phases"):
                numbers += map(one.section("phases").section, ("reached", "failed_in"))
        for part in numbers:
            for name in part.values:
                part.finite(name, 0, 1e9)
        read = cls(run.path, config.values, found.values)
        if "encoder" in config.section("model", {}) and run.complete and not run.checkpoint.is_dir():
            raise ReportError(f"{run.checkpoint} is missing; copy the run again")
        _ = read.rollouts  # whose outcomes are checked by being read
        return read

    @property
    def task(self) -> str:
        return self.config["task"]

    @property
    def method(self) -> str:
        return self.config["method"]

    @property
    def seed(self) -> int:
        return int(self.config["train"]["seed"])

    @property
    def label(self) -> str:
        return f"{self.method}, seed {self.seed}"

    @property
    def checkpoint(self) -> Path:
        return RunDirectory(self.path).checkpoint

    @property
    def small(self) -> bool:
        """Whether it is a small torch policy, whose features can be probed."""
        return "encoder" in self.config.get("model", {})

    @property
    def store(self) -> Path | None:
        """The episode store that it was trained on: as its summary says, seen from here or from beside its `runs`."""
        dataset = self.summary.get("dataset", {})
        recorded = Path(dataset.get("store") or dataset.get("path", ""))
        if not (self.small or "store" in dataset) and len(recorded.parents) > 3:
            # root/rlds/NAME/TASK/VERSION, with the store in root/store/NAME
            recorded = recorded.parents[3] / "store" / recorded.parents[1].name
        beside = self.path.absolute().parents[2] / recorded
        return next((place for place in (recorded, beside) if (place / "store.json").exists()), None)

    @cached_property
    def evaluations(self) -> dict[str, Mapping[str, Any]]:
        """Variant to what `evaluate` returned."""
        return evaluations_of(self.summary)

    @cached_property
    def rollouts(self) -> dict[str, Rollouts]:
        """Variant to outcomes."""
        where = f"the evaluation of {self.label}"
        return {name: Rollouts.from_summary(found, where) for name, found in self.evaluations.items()}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        path = RunDirectory(self.path).metrics
        return read_metrics(path) if path.exists() else []

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one measurement; empty where it was not taken."""
        rows = [(row["step"], row[name]) for row in self.metrics if name in row]
        steps, values = zip(*rows) if rows else ((), ())
        return np.array(steps), np.array(values, float)

    def videos(self, variant: str) -> list[Path]:
        """Those that are still there."""
        folder = RunDirectory(self.path).rollouts
        found = self.evaluations.get(variant, {}).get("videos", [])
        return [place for name in found for base in (folder / variant, folder) if (place := base / name).is_file()]


def by_method(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of each method, in the order in which the methods were given."""
    return {method: [r for r in runs if r.method == method] for method in dict.fromkeys(run.method for run in runs)}
