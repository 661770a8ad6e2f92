"""The cells of a table, in the order in which they run: seeds outermost, then tasks, then methods.

A cell is one training of one method with one seed, rolled out on the layouts of its table. It is known by its name and
by its settings: what its configuration has other than the defaults of its kind.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.tables.tables import IN, OUT, Arm, Block, Table
from gap_vla.core.config import merge
from gap_vla.core.identity import commit
from gap_vla.sim import task_spec
from gap_vla.training.data import versions
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run_directory import of_result, read_metrics
from gap_vla.training.torch import SmallConfig

ROLLOUTS = 100

DEMOS_OF_A_SEED = 1000
"""Seeds of demonstrations that are kept apart for each training seed, in tables where each has its own."""

_CONFIGS = Path(__file__).resolve().parents[2] / "finetune_configs"
_KINDS: Mapping[str, Any] = {"small": SmallConfig, "octo": FinetuneConfig}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One policy to train and roll out: a line of a table, one training seed of it."""

    table: str
    profile: str
    block: Block
    arm: Arm
    seed: int
    config: Any

    @property
    def name(self) -> str:
        """Unique within the table and profile."""
        return f"{self.block.name}-{self.arm.name}-seed{self.seed}"

    @cached_property
    def settings(self) -> str:
        """JSON of what can change the result and is not the default, by dotted key."""
        kind: Any = type(self.config)
        usual = _defaults(kind)
        changed = {key: value for key, value in of_result(self.config.to_dict()).items() if usual.get(key) != value}
        return json.dumps(changed, sort_keys=True)

    @property
    def versions(self) -> dict[str, int]:
        """Of the code of training, labels and pictures: an outcome of others is no outcome of this cell."""
        return versions(self.config.backend, self.config.task)


@functools.cache
def _defaults(kind: Any) -> Mapping[str, Any]:
    """Those of the recorded cells, which name every method but GAP."""
    return of_result(kind("assembly", method="vp_gap").to_dict())


def plan(table: Table, profile: str, *, seeds: Sequence[int] | None = None, device: str = "cpu") -> list[Cell]:
    """Every cell of a table; nothing is run. Raises ConfigError: settings that do not fit together."""
    return [
        Cell(table.name, profile, block, arm, seed, _config(table, profile, block, arm, seed, device))
        for seed in (table.seeds if seeds is None else seeds)
        for block in table.blocks
        for arm in block.arms
    ]


def _config(table: Table, profile: str, block: Block, arm: Arm, seed: int, device: str) -> Any:
    """The configuration of one cell: a profile of the task's file, with what the table, the block and the arm say."""
    own = {"demos.seed": DEMOS_OF_A_SEED * seed} if table.own_demos else {}
    changes = {**block.changes, **own, **arm.changes}
    fixed = {"task": block.task, "method": arm.method, "train.seed": seed, "eval.workers": 1}
    fixed |= {} if profile == "debug" else {"eval.episodes": ROLLOUTS}
    if table.kind == "small":
        file = "small_assembly" if task_spec(block.task).family == "metaworld" else "small_threading"
        fixed |= {"train.device": device}
        if profile == "debug":  # whose demonstrations are its own
            changes = {k: v for k, v in changes.items() if not k.startswith("demos.") or k == "demos.camera"}
        else:
            fixed |= {"eval.variants": (IN, OUT)}
    else:
        file = "threading" if profile == "paper" else block.task
        profile = "default" if profile == "cpu" else profile
    values = _values(file, profile)
    for key, value in {**fixed, **changes}.items():
        for section in reversed(key.split(".")):
            value = {section: value}
        values = merge(values, value)
    return _KINDS[table.kind].from_dict(values)


@functools.cache
def _values(file: str, profile: str) -> dict[str, Any]:
    from gap_vla.cli.configured import load_config

    return load_config(f"{_CONFIGS / file}.py:{profile}").to_dict()


def run_directory(cell: Cell) -> Path:
    """Where the cell's run lies, or will."""
    from gap_vla.training.run import TrainingRun

    return TrainingRun(cell.config).directory.path


def train(cell: Cell, machine: str) -> dict[str, Any]:
    """Runs every stage of a cell, or goes on where it was stopped, and returns its row of `results/cells.csv`."""
    from gap_vla.report.runs import read_rollouts
    from gap_vla.training.run import TrainingRun

    started, resumed = time.monotonic(), run_directory(cell).exists()
    summary = TrainingRun(cell.config).to_the_end(resume=True)
    seconds = sum(summary["seconds"].values()) if resumed else time.monotonic() - started
    rollouts: dict[str, Any] = {}
    for variant, found in read_rollouts(summary).items():
        outcomes = "".join(str(int(found[layout])) for layout in sorted(found))
        rollouts |= {f"successes_{variant}": sum(found.values()), f"first_layout_{variant}": min(found)}
        rollouts[f"outcomes_{variant}"] = outcomes
    measured = summary["validation"]
    return {
        "table": cell.table,
        "profile": cell.profile,
        "cell": cell.name,
        "task": cell.block.task,
        "view": cell.config.demos.camera,
        "arm": cell.arm.name,
        "method": cell.arm.method,
        "seed": cell.seed,
        **rollouts,
        "steps": summary["steps"],
        "hours": round(seconds / 3600, 4),
        "whole": not resumed,
        **{name: measured.get(f"val/{name}") for name in ("action_mse", "loss", "loss_transition", "loss_consistent")},
        **_first_half(cell, summary["steps"]),
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        **cell.versions,
        "settings": cell.settings,
    }


def _first_half(cell: Cell, steps: int) -> dict[str, float]:
    """Of the logged steps 1 to `steps` / 2, GAP's usual window: means, and how far the branch had moved at the end."""
    rows = [row for row in read_metrics(run_directory(cell) / "metrics.jsonl") if 0 < row["step"] <= steps / 2]
    found = {}
    for name in ("vision_gradient", "vision_loss_transition"):
        values = [row[f"branch/{name}"] for row in rows if f"branch/{name}" in row]
        if values:
            found[name] = round(sum(values) / len(values), 6)
    moved = [row["train/branch_moved"] for row in rows if "train/branch_moved" in row]
    return found | ({"branch_moved": round(moved[-1], 6)} if moved else {})
