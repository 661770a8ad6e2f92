"""Runs the cells that are not recorded yet, as jobs of submitit: processes here, SLURM where there is one.

A cell that is recorded is not run again, so the same command goes on after its budget, Ctrl-C or a kill. A cell that
was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.tables import results
from experiments.tables.cells import Cell, train
from gap_vla.core import identity
from gap_vla.core.processes import one_thread_each
from gap_vla.core.progress import duration

POLL_SECONDS = 1.0


def machine(device: str, jobs: int) -> str:
    """What decides how long a cell takes, and what its weights are rounded to."""
    here = identity.machine()
    name = device
    if device == "cuda":
        import torch

        name = torch.cuda.get_device_name(0)
    versions = ", ".join(f"{package} {here[package]}" for package in ("torch", "jax") if package in here)
    told = f"{here['cores']} cores, {here['processor']}, {versions}, {name}"
    return f"{told}, {jobs} cells at once" if jobs > 1 else told


def expected_hours(cell: Cell, frame: pd.DataFrame) -> float:
    """The median of whole cells of its table and task, else of its task; NaN if there is none."""
    whole = frame[(frame["profile"] == cell.profile) & (frame["task"] == cell.block.task) & frame["whole"].eq(True)]
    of_table = whole[whole["table"] == cell.table]
    return float((of_table if len(of_table) else whole)["hours"].median())


def run(
    cells: Sequence[Cell], path: Path, *, budget: float, jobs: int = 1, device: str = "cpu", logs: Path
) -> list[str]:
    """Runs cells until all are recorded or the budget (seconds) is used up; returns the names of those that failed.

    Args:
        path: the table of cells, to which each finished one is added.
        logs: folder of submitit's files, an output and an error stream of each cell among them.
    """
    import submitit

    executor = submitit.AutoExecutor(folder=logs / "%j")
    executor.update_parameters(timeout_min=max(1, round(budget / 60)), cpus_per_task=2, tasks_per_node=1)
    if device == "cuda":
        executor.update_parameters(gpus_per_node=1)
    here = machine(device, jobs)
    recorded = results.rows_of(cells, results.read(path)) if cells else {}
    waiting = [cell for cell in cells if cell.name not in recorded]
    running: dict[str, submitit.Job] = {}
    failed: list[str] = []
    deadline = time.monotonic() + budget
    try:
        while running or (waiting and time.monotonic() < deadline):
            while waiting and len(running) < jobs and time.monotonic() < deadline:
                cell = waiting.pop(0)
                with one_thread_each() if jobs > 1 else contextlib.nullcontext():
                    running[cell.name] = job = executor.submit(train, cell, here)
                print(f"{cell.name} starts, {len(waiting)} wait; its output: {job.paths.stdout}", flush=True)
            time.sleep(POLL_SECONDS)
            for name, job in [*running.items()]:
                if job.done():
                    del running[name]
                    failed += _record(name, job, path)
            if time.monotonic() > deadline and running:
                print(f"the budget is used up: {', '.join(running)} goes on next time", flush=True)
                break
    finally:
        for job in running.values():
            job.cancel()
    return failed


def _record(name: str, job: Any, path: Path) -> list[str]:
    """Adds what a job found to the table; the cell's name if it failed."""
    if (error := job.exception()) is not None:
        print(f"{name} failed, see {job.paths.stderr}: {str(error).strip().splitlines()[-1]}", flush=True)
        return [name]
    row = job.result()
    results.add(row, path)
    success = ", ".join(f"{key.partition('_')[2]} {row[key]}" for key in row if key.startswith("successes_"))
    print(f"{name} finished in {duration(3600 * row['hours'])}: {success}", flush=True)
    return []
