"""The comparison of METHOD §3: every method with every seed on the same data, then one table.

A cell (method, seed) is an ordinary run in its own directory. Finished cells are skipped, started ones go on, so the
comparison can be stopped at any moment and continued.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from gap_vla.core.errors import keeping
from gap_vla.core.identity import digest
from gap_vla.core.processes import CellProcess
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import write_json
from gap_vla.training.config import FinetuneConfig
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.settings import of_result


def cell_config(config: FinetuneConfig, method: str, seed: int) -> FinetuneConfig:
    """The configuration of one cell: only the method and the training seed differ."""
    return dataclasses.replace(config, method=method, train=dataclasses.replace(config.train, seed=seed))


def comparison_directory(config: FinetuneConfig) -> Path:
    """Where the tables of a configuration lie; the cells of all methods and seeds share it."""
    return Path(config.runs) / config.task / f"compare-{digest(of_result(cell_config(config, 'vp', 0).to_dict()))}"


def compare(config: FinetuneConfig, methods: Sequence[str], seeds: Sequence[int]) -> tuple[str, list[str]]:
    """Runs the missing cells and renders the table after each.

    A cell that fails is recorded as failed with its reason, and the others go on.

    Returns:
        The final table as text, and the names of the cells that failed; `table.md`, `table.png` and `cells.json` lie
        in `comparison_directory`.
    """
    from gap_vla.report.comparison_render import render
    from gap_vla.training.pipeline import prepare_data, run_directory_of

    if not methods or not seeds:
        raise ConfigError("compare needs at least one method and one seed")
    cells = [cell_config(config, method, seed) for seed in seeds for method in methods]
    out = comparison_directory(config)
    failures: list[dict[str, str]] = []
    failed: list[str] = []
    prepare_data(cells[0])
    text = ""
    for number, cell in enumerate(cells, 1):
        run = RunDirectory(run_directory_of(cell))
        complete = run.complete_with(cell.to_dict())
        state = "finished before" if complete else "running"
        print(f"cell {number}/{len(cells)}: {cell.method}, seed {cell.train.seed}: {state} ({run.path})", flush=True)
        if not complete:
            error = _run_in_a_process(cell)
            if error:
                failures.append({"run": str(run.path), "error": error})
                failed.append(f"{cell.method}, seed {cell.train.seed}")
                print(f"cell {number}/{len(cells)} failed: {error}", flush=True)
        runs = [RunDirectory(run_directory_of(c)) for c in cells]
        finished = [run.summary for run, c in zip(runs, cells) if run.complete_with(c.to_dict())]
        write_json(out / "cells.json", {"finished": [str(path) for path in finished], "failed": failures})
        if finished:
            text = render(finished, out, methods=list(dict.fromkeys(cell.method for cell in cells)))
    return text, failed


def _run_in_a_process(config: FinetuneConfig) -> str | None:
    """Runs one cell with memory of its own; returns what went wrong, or None."""
    cell = CellProcess(_cell, config)
    with keeping("finished and started cells are kept, the same command goes on"):
        cell.wait()
        if cell.interrupted:
            raise KeyboardInterrupt
    return cell.error


def _cell(config: FinetuneConfig) -> None:
    from gap_vla.training.pipeline import finetune

    finetune(config, resume=True)
