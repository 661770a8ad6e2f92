"""The comparison of METHOD §3: every method with every seed on the same data, then one table.

A cell (method, seed) is an ordinary run in its own directory. Finished cells are skipped, started ones go on, so the
comparison can be stopped at any moment and continued.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gap_vla.core.errors import INTERRUPTED, USER_ERROR, ConfigError, UserError, message_of
from gap_vla.core.files import write_json
from gap_vla.core.identity import digest
from gap_vla.training.config import Experiment
from gap_vla.training.run import TrainingRun, finetune
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

    A cell that fails is recorded as failed with its reason, and the others go on. One that another process is at work
    on is waited for.

    Returns:
        The final table of these cells as text, the names of those that failed, and the table as numbers (empty while
        none has finished); `cells.json`, and `table.md`, `table.json` and `table.png` once a cell has finished, lie in
        `comparison_directory`, where another call, with other methods or seeds, may write its own.
    """
    from gap_vla.report.comparison_render import render

    if not config.rollouts:
        raise ConfigError("there are no rollouts to compare; set --config.eval.episodes, and a simulated task")
    runs = {
        f"{method}, seed {seed}": TrainingRun(cell_config(config, method, seed)) for seed in seeds for method in methods
    }
    out = comparison_directory(config)
    for run in runs.values():  # before the first of them begins
        if not run.directory.complete_with(run.config.to_dict()):
            run.validate()
    failures: list[dict[str, str]] = []
    text, content = "", dict[str, Any]()
    for number, (name, run) in enumerate(runs.items(), 1):
        complete = run.directory.complete_with(run.config.to_dict())
        state = f"{'finished before' if complete else 'running'} ({run.directory.path})"
        print(f"cell {number}/{len(runs)}: {name}: {state}", flush=True)
        if not complete and (error := _run_in_a_process(run.config)):
            failures.append({"cell": name, "run": str(run.directory.path), "error": error})
            print(f"cell {number}/{len(runs)} failed: {error}", flush=True)
        finished = [r.directory.summary for r in runs.values() if r.directory.complete_with(r.config.to_dict())]
        write_json(out / "cells.json", {"finished": [str(path) for path in finished], "failed": failures})
        if finished:
            text, content = render(finished, out, [failure["cell"] for failure in failures])
    return text, [failure["cell"] for failure in failures], content


def _run_in_a_process(config: Experiment) -> str:
    """Runs one cell with memory of its own; returns what went wrong, if anything."""
    context = get_context("spawn")
    answers, theirs = context.Pipe(duplex=False)
    cell = context.Process(target=_cell, args=(config, theirs))
    cell.start()
    theirs.close()
    kept = "finished and started cells are kept, the same command goes on"
    try:
        cell.join()
    except KeyboardInterrupt:
        cell.join()  # a terminal's Ctrl-C reaches it too, and it saves its state
        raise KeyboardInterrupt(kept) from None
    if cell.exitcode == INTERRUPTED:
        raise KeyboardInterrupt(kept)
    if not cell.exitcode:
        return ""
    return answers.recv() if answers.poll() else f"it ended with status {cell.exitcode}"


def _cell(config: Experiment, answers: Connection) -> None:
    try:
        finetune(config, resume=True, wait=True)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except (UserError, OSError) as error:
        answers.send(message_of(error))
        raise SystemExit(USER_ERROR) from None
