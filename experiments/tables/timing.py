"""How long a cell will take: from finished ones like it, or from what its profile states."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from statistics import median
from typing import Any

from experiments.tables.cells import Cell
from experiments.tables.kinds import Kind
from experiments.tables.ledger import FINISHED, Entry
from experiments.tables.settings import training_length


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds, and where they come from, in words."""

    seconds: float
    source: str


def machine(device: str = "cpu", jobs: int = 1) -> dict[str, Any]:
    """What decides how long a cell takes; times of another machine predict nothing here."""
    found: dict[str, Any] = {"cores": os.cpu_count(), "processor": platform.machine(), "device": device, "jobs": jobs}
    if device != "cpu":
        import torch

        found["device_name"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return found


def predict(cell: Cell, entries: Sequence[Entry], kind: Kind, here: dict[str, Any]) -> Prediction:
    """Predicts one cell's seconds.

    Args:
        entries: of this profile, any table; those that were stopped and continued and those of other machines are left
            out; those with another number of cells at once too, unless there are no others.
        here: `machine()` of the coming run.
    """
    measured = [e for e in entries if e.status == FINISHED and e.whole]
    usable = [e for e in measured if e.account.get("machine") == here]
    if not usable:
        usable = [e for e in measured if {**e.account.get("machine", {}), "jobs": here["jobs"]} == here]
    length = {e.cell: training_length(e.config) for e in usable}
    tiers = (
        ("the same cell before", [e for e in usable if e.config_hash == cell.hash]),
        (
            f"{cell.arm.name} on {cell.block.task}",
            [e for e in usable if (e.task, e.arm, length[e.cell]) == (cell.block.task, cell.arm.name, cell.length)],
        ),
        ("cells of this task", [e for e in usable if (e.task, length[e.cell]) == (cell.block.task, cell.length)]),
    )
    for source, like in tiers:
        if like:
            return Prediction(median(e.seconds for e in like), source)
    rates = [e.seconds / length[e.cell] for e in usable if length[e.cell]]
    if rates and cell.length:
        return Prediction(cell.length * median(rates), "cells of other tasks, by their length")
    return Prediction(kind.stated_seconds[cell.profile], f"stated by profile {cell.profile}")
