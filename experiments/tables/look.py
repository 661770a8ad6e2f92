"""Looks into the policies of finished cells; what is found becomes columns of `results/cells.csv`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.looks.predictors import predictors
from experiments.looks.probe import collect_probe_demos, features_of, probe, read_probe_data, reliance
from experiments.tables import results
from experiments.tables.cells import Cell, run_directory
from gap_vla.report.runs import Run
from gap_vla.serving.loading import load_checkpoint
from gap_vla.training.data import Stages


def look_at_cells(cells: Sequence[Cell], what: Sequence[str], path: Path) -> None:
    """Measures finished cells whose run is here, and adds the figures to their rows of the table of cells.

    Args:
        what: `probe` (what a policy relies on and, of a small one on assembly, where its features say peg and ring
            are) or `predict` (what the demonstrations of `vision` say beforehand).
    """
    recorded = results.rows_of(cells, results.read(path))
    for cell in cells:
        if cell.name not in recorded or not run_directory(cell).exists():
            continue
        measured: dict[str, Any] = {}
        if "predict" in what and cell.arm.name == "vision":
            store = Stages(cell.config).open()
            measured["predictors"] = json.dumps(predictors(cell.config, store))
        if "probe" in what:
            run = Run.read(run_directory(cell))
            demos = collect_probe_demos(run)
            measured |= reliance(run, demos)
            policy: Any = load_checkpoint(run.path).policy if run.small else None
            if policy and policy.model.uses_vision:
                data = read_probe_data(demos)
                found = probe(features_of(policy.model, data.images), data)
                for name in {"peg", "ring"} & {*found}:
                    measured[f"{name}_error_mm"] = 1000 * found[name]["error"]
        print(f"{cell.name}: {measured}", flush=True)
        results.add({**recorded[cell.name], **measured}, path)
