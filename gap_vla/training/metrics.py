"""Measurements while training: JSON lines and TensorBoard, without lines of a future that a resumed run forgot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from gap_vla.core.run_files import read_metrics
from gap_vla.core.whole import replacing


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard.

    Args:
        jsonl: file of JSON lines; rows after `start_step` are dropped first (they will be measured again), and all of
            them where nothing was saved before.
        tensorboard: folder of event files.
        start_step: number of training steps done so far.
    """

    def __init__(self, jsonl: Path, tensorboard: Path, start_step: int = 0):
        from tensorboardX import SummaryWriter

        if jsonl.exists():
            kept = [row for row in read_metrics(jsonl) if row["step"] <= start_step] if start_step else []
            with replacing(jsonl) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._lines = jsonl.open("a")
        self._board = SummaryWriter(str(tensorboard), purge_step=start_step + 1 if start_step else 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` after `step` training steps; on disk when this returns."""
        self._lines.write(json.dumps({"step": step, **{k: float(v) for k, v in values.items()}}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, float(value), step)

    def close(self) -> None:
        self._lines.close()
        self._board.close()


class NoMetrics:
    """Takes the place of `MetricsWriter` on hosts that write nothing."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass
