"""The comparison of docs/EVALUATION.md: every method with every seed on the same data, then one table.

A cell (method, seed) is an ordinary run in its own directory. Finished cells are skipped, started ones go on, so the
comparison can be stopped at any moment and continued.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gap_vla.core.errors import ConfigError, UserError, message_of
from gap_vla.core.identity import digest
from gap_vla.training.config import Experiment
from gap_vla.training.run import TrainingRun
from gap_vla.training.run_directory import of_result


def cell_config(config: Experiment, method: str, seed: int) -> Experiment:
    """The configuration of one cell: only the method and the training seed differ."""
    return dataclasses.replace(config, method=method, train=dataclasses.replace(config.train, seed=seed))


def comparison_directory(config: Experiment) -> Path:
    """Where the tables of a configuration lie; the cells of all methods and seeds share it."""
    return Path(config.runs) / config.task / f"compare-{digest(of_result(cell_config(config, 'vp', 0).to_dict()))}"


def compare_methods(
    config: Experiment, methods: Sequence[str], seeds: Sequence[int]
) -> tuple[str, list[str], dict[str, Any]]:
    """Runs the missing cells and renders the table after each.

    Of a cell that fails the reason is printed, and the others go on.

    Returns:
        The final table of these cells as text, the names of those that failed, and the table as numbers (empty while
        none has finished). `table.md`, `table.json` and `table.png` lie in `comparison_directory`, where another call,
        with other methods or seeds, may write its own.
    """
    from gap_vla.report.comparison import render

    if not config.rollouts:
        raise ConfigError("there are no rollouts to compare; set --config.eval.episodes, and a simulated task")
    runs = {
        f"{method}, seed {seed}": TrainingRun(cell_config(config, method, seed)) for seed in seeds for method in methods
    }
    for run in runs.values():  # before the first of them begins
        if not complete(run):
            run.validate()
    failed: list[str] = []
    text, content = "", dict[str, Any]()
    for number, (name, run) in enumerate(runs.items(), 1):
        state = "finished before" if complete(run) else "running"
        print(f"cell {number}/{len(runs)}: {name}: {state} ({run.directory.path})", flush=True)
        if not complete(run) and (error := _run_in_a_process(run.config)):
            failed.append(name)
            print(f"cell {number}/{len(runs)} failed: {error}", flush=True)
        if finished := [run.directory.path for run in runs.values() if complete(run)]:
            text, content = render(finished, comparison_directory(config), failed)
    return text, failed, content


def complete(run: TrainingRun) -> bool:
    """Whether a cell is finished."""
    return run.directory.complete_with(run.config.to_dict())


def _run_in_a_process(config: Experiment) -> str:
    """Runs one cell with memory of its own; returns what went wrong, if anything."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            process.submit(_run, config).result()
    except KeyboardInterrupt:  # a terminal's Ctrl-C reaches the cell too, and it has saved its state
        raise KeyboardInterrupt("finished and started cells are kept, the same command goes on") from None
    except Exception as error:
        if not isinstance(error, UserError | OSError):
            traceback.print_exception(error)
        return message_of(error)
    return ""


def _run(config: Experiment) -> None:
    TrainingRun(config).to_the_end(resume=True)
