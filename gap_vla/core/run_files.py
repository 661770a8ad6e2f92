"""The files of a training run's folder.

config.json        resolved configuration            dataset.json  what the data were made from
first_batch.png    what the model saw, with ρ        metrics.jsonl, tensorboard/   what was measured while training
state/             resumable checkpoints             checkpoint/   exported in upstream's layout
rollouts/          videos, a line per episode        summary.json  written last: the run is complete
report.html        one page: success, videos, curves, ρ over a demonstration, how far episodes got
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RunFiles:
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

    def read_summary(self) -> dict[str, Any]:
        return json.loads(self.summary.read_text())


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Every whole line of a metrics file, oldest first; a line cut off by a kill is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
