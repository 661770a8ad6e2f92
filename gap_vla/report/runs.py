"""Runs as a report reads them, finished or not, whichever backend trained them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json

_GAP = (
    "trained with GAP: around change points of the motion, where ρ is high, the branch of proprioception learns more "
    "slowly, so that vision is not left behind"
)
METHODS = {
    "v": "a small Octo that sees pictures and the instruction, and no proprioception",
    "vp": "a small Octo that sees pictures, the instruction and proprioception",
    "vp_gap": f"a small Octo that sees pictures, the instruction and proprioception, {_GAP}",
    "vp_slow": "a policy that sees pictures and proprioception, whose branch learns more slowly at first",
    "vision": "a small policy that sees pictures alone",
    "proprio": "a small policy that sees proprioception alone",
    "concat": "a small policy that sees pictures and proprioception",
    "gap": f"a small policy that sees pictures and proprioception, {_GAP}",
}
"""What each method is, in a sentence; docs/POLICIES.md explains the others."""

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
    "train.logger",  # in records only
}
"""Folders, workers, rhythm, device. (With other threads or on another device, sums are rounded otherwise.)"""

Rollouts = dict[int, bool]
"""Outcomes of one policy on one variant of the scene: layout seed to success."""


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Every whole line of a `metrics.jsonl`, oldest first; a last one that a kill cut off is left out."""
    return [json.loads(line) for line in Path(path).read_text().split("\n")[:-1]]


def evaluations_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Variant to what `evaluate` returned, from a run's summary: one evaluation for each variant, or only one."""
    if variants := summary.get("variants"):
        return dict(variants)
    one = summary.get("rollouts")
    return {one.get("task", {}).get("variant", "default"): one} if one else {}


def read_rollouts(summary: Mapping[str, Any]) -> dict[str, Rollouts]:
    """Variant to outcomes, from a run's summary."""
    return {
        variant: {layout: bool(won) for layout, won in zip(one["layout_seeds"], one["outcomes"])}
        for variant, one in evaluations_of(summary).items()
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        config: its `config.json`.
        summary: its `summary.json`; empty while the run is not finished.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path | str) -> Run:
        """Raises UserError: no run directory."""
        path = Path(path) if Path(path).name else Path(path).absolute()  # a page names it, also where it is `.`
        config = read_json(path / "config.json") if (path / "config.json").exists() else {}
        if not {"task", "method", "train"} <= config.keys():
            raise UserError(f"{path} is no run directory (by its config.json); give one of runs/TASK/")
        summary = path / "summary.json"
        return cls(path, config, read_json(summary) if summary.exists() else {})

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

    @cached_property
    def evaluations(self) -> Mapping[str, Mapping[str, Any]]:
        """Variant of the scene to what `evaluate` returned."""
        return evaluations_of(self.summary)

    @cached_property
    def rollouts(self) -> Mapping[str, Rollouts]:
        """Variant of the scene to layout seed to success."""
        return read_rollouts(self.summary)

    @property
    def small(self) -> bool:
        """Whether it is a small torch policy, whose features can be probed."""
        return "encoder" in self.config.get("model", {})

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        return read_metrics(path) if path.exists() else []

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one measurement; empty where it was not taken."""
        rows = [(row["step"], row[name]) for row in self.metrics if name in row]
        steps, values = zip(*rows) if rows else ((), ())
        return np.array(steps), np.array(values, float)

    @property
    def gap_stops(self) -> int | None:
        """The training step from which on GAP does not act any more; None if it acts to the end, or never."""
        steps = self.summary.get("steps") or self.config["train"].get("steps")
        acts = any(row.get(f"gap/{factor}_factor", 1) < 1 for row in self.metrics for factor in ("sample", "update"))
        if not acts or not steps:
            return None
        stop = AdjustmentSchedule(window=self.config["adjustment"]["window"]).active_steps(steps)
        return stop if stop < steps else None

    def videos(self, variant: str) -> list[Path]:
        """The films of its rollouts that are there."""
        names = self.evaluations.get(variant, {}).get("videos", [])
        return [place for name in names if (place := self._rollout_file(variant, name))]

    def rollout_page(self, variant: str) -> Path | None:
        """The page of an evaluation's rollouts, if it is there."""
        return self._rollout_file(variant, "index.html")

    def _rollout_file(self, variant: str, name: str) -> Path | None:
        """A file of the rollouts on a variant, which lie in a folder of their own if there are several variants."""
        places = (self.path / "rollouts" / variant / name, self.path / "rollouts" / name)
        return next((place for place in places if place.is_file()), None)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs of a page. Raises UserError: none, runs of several tasks, or two of a method and seed."""
    runs = [Run.read(path) for path in paths]
    tasks = sorted({run.task for run in runs})
    if len(tasks) != 1:
        raise UserError(f"a report needs runs of one task; these are of {', '.join(tasks) or 'none'}")
    seen: dict[str, Path] = {}
    for run in runs:
        if run.label in seen:
            raise UserError(f"{seen[run.label]} and {run.path} are both {run.label}; give one of them")
        seen[run.label] = run.path
    return runs


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of each method, in the order in which the methods were given."""
    return {method: [r for r in runs if r.method == method] for method in dict.fromkeys(run.method for run in runs)}
