"""The comparison of METHOD §3: every method with every seed on the same data, then one table.

A cell (method, seed) is an ordinary run in its own directory. Finished cells are skipped, started ones go on, so the
comparison can be stopped at any moment and continued.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.cells import CellProcess
from gap_vla.core.errors import keeping
from gap_vla.core.identity import digest
from gap_vla.core.locks import alone
from gap_vla.core.marks import made_by, suffix_of
from gap_vla.core.outputs import claim, write_output
from gap_vla.core.run_settings import of_result
from gap_vla.core.typed_config import ConfigError
from gap_vla.training.config import Experiment
from gap_vla.training.preflight import require_ready
from gap_vla.training.run import Run, finetune
from gap_vla.training.stages import prepare_data


def cell_config(config: Experiment, method: str, seed: int) -> Experiment:
    """The configuration of one cell: only the method and the training seed differ."""
    return dataclasses.replace(config, method=method, train=dataclasses.replace(config.train, seed=seed))


def comparison_directory(config: Experiment) -> Path:
    """Where the tables of a configuration lie; the cells of all methods and seeds share it."""
    return Path(config.runs) / config.task / f"compare-{digest(of_result(cell_config(config, 'vp', 0).to_dict()))}"


def compare(config: Experiment, methods: Sequence[str], seeds: Sequence[int]) -> tuple[str, list[str], dict[str, Any]]:
    """Runs the missing cells and renders the table after each.

    A cell that fails is recorded as failed with its reason, and the others go on. One that another process is at work
    on is waited for.

    Returns:
        The final table of these cells as text, the names of those that failed, and the table as numbers (empty while
        none has finished); `cells.json`, and `table.md`, `table.json` and `table.png` once a cell has finished, lie in
        `comparison_directory`, where another call, with other methods or seeds, may write its own.
    """
    from gap_vla.report.comparison_render import TABLES, render
    from gap_vla.report.runs import Run as Finished

    if not methods or not seeds or len({*methods}) < len(methods) or len({*seeds}) < len(seeds):
        raise ConfigError(f"methods {methods} and seeds {seeds}: name at least one of both, and each once")
    cells = [cell_config(config, method, seed) for seed in seeds for method in methods]
    if len({(cell.method, cell.train.seed) for cell in cells}) < len(cells):
        raise ConfigError(f"methods {','.join(methods)}: two of them are names of one; name each once")
    out = comparison_directory(config)
    for name in (*TABLES, "cells.json"):
        claim(out / name, "comparison", suffixes=(suffix_of(name),), named=False)
    failures: list[dict[str, str]] = []
    runs = [Run(cell) for cell in cells]
    for run in runs:
        if not run.directory.complete_with(run.config.to_dict()):
            require_ready(run.config, run.stages, run.directory)
        else:
            _ = Finished.read(run.directory.path).metrics  # refuses what is damaged
            run.require_data()
    if not all(run.directory.complete_with(run.config.to_dict()) for run in runs):
        with alone(runs[0].stages.lock, f"{runs[0].stages.store}", wait=True):
            prepare_data(cells[0], runs[0].stages)
    text, content = "", dict[str, Any]()
    for number, run in enumerate(runs, 1):
        cell, directory = run.config, run.directory
        complete = directory.complete_with(cell.to_dict())
        state = f"{'finished before' if complete else 'running'} ({directory.path})"
        print(f"cell {number}/{len(cells)}: {cell.method}, seed {cell.train.seed}: {state}", flush=True)
        if not complete and (error := _run_in_a_process(cell)):
            name = f"{cell.method}, seed {cell.train.seed}"
            failures.append({"cell": name, "run": str(directory.path), "error": error})
            print(f"cell {number}/{len(cells)} failed: {error}", flush=True)
        finished = [r.directory.summary for r in runs if r.directory.complete_with(r.config.to_dict())]
        account = {"finished": [str(path) for path in finished], "failed": failures}
        with alone(out / ".lock", f"{out}", wait=True):  # all four files are of one call
            write_output(out / "cells.json", "comparison", json.dumps(account))
            if finished:
                left = [f["cell"] for f in failures if Path(f["run"]) / "summary.json" not in finished]
                text, content = render(finished, out, left)
            elif kept := [name for name in TABLES if made_by(out / name) == "comparison"]:
                print(f"note: {', '.join(kept)} in {out} are of an earlier call; none finished in this one", flush=True)
    return text, [failure["cell"] for failure in failures], content


def _run_in_a_process(config: Experiment) -> str | None:
    """Runs one cell with memory of its own; returns what went wrong, or None."""
    cell = CellProcess(functools.partial(finetune, resume=True, wait=True), config)
    with keeping("finished and started cells are kept, the same command goes on"):
        cell.wait()
        if cell.interrupted:
            raise KeyboardInterrupt
    return cell.error
