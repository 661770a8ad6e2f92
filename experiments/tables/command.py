"""Reproduce a table: train and roll out its cells (task × method × seed), as many as fit into a budget of time.

    python scripts/reproduce.py --table evidence --profile cpu --budget 60m --jobs 2
    python scripts/reproduce.py --table main --dry-run                     # the cells that would run, with their times
    python scripts/reproduce.py --table octo --tasks threading --seeds 0
    python scripts/reproduce.py --table spread --look probe                # what finished policies see and need
    python scripts/reproduce.py --render                                   # only write all tables again

Every finished cell is a row of results/cells.csv, and cells that are there are not run again: the same command
continues after the budget, Ctrl-C or a kill. Cells are processes here, and jobs of SLURM where there is one. Tables
(ours beside the paper's) and pictures are written into results/TABLES.md between its markers. Status 1 means that cells
have failed; they are named.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gap_vla.core.errors import NEGATIVE, ConfigError, command

JOBS = {"cpu": 1, "cuda": 4}
"""Cells at once where --jobs names no number: those of a GPU wait for their simulators most of the time."""


def seconds(text: str) -> float:
    """A budget of time.

    >>> seconds("60m"), seconds("1.5h"), seconds("1h30m"), seconds("90s")
    (3600.0, 5400.0, 5400.0, 90.0)
    """
    import pandas as pd

    if text[-1:].isdigit():  # pandas would count nanoseconds
        raise argparse.ArgumentTypeError(f"{text} of what? Give a time such as 60m, 1.5h, 1h30m or 90s")
    return pd.Timedelta(text).total_seconds()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from experiments.tables.tables import PROFILES, TABLES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--table", choices=tuple(TABLES), metavar="TABLE", help=f"one of {', '.join(TABLES)}")
    add("--profile", default="cpu", choices=PROFILES, help="size of model, data and training (default cpu)")
    add("--budget", type=seconds, default="60m", help="time for this call, such as 60m or 1.5h (default 60m)")
    add("--jobs", type=int, help="cells at once (default 1; with --device cuda 4)")
    add("--seeds", type=_numbers, help="training seeds, such as 0,1 (default: the table's)")
    add("--methods", type=_names, default=(), help="only these lines of the table")
    add("--tasks", type=_names, default=(), help="only these tasks")
    add("--device", default="cpu", choices=tuple(JOBS), help="where small policies train (default cpu)")
    add("--dry-run", action="store_true", help="print the cells that would run, with their times; run nothing")
    add("--look", type=_names, default=(), help="look into finished cells instead: probe,predict")
    add("--render", action="store_true", help="run nothing; write what is recorded, without --table all of it")
    add("--results", type=Path, default=Path("results/cells.csv"), help="table of the cells (default %(default)s)")
    add("--page", type=Path, default=Path("results/TABLES.md"), help="page to write into (default %(default)s)")
    add("--logs", type=Path, default=Path("runs/reproduce"), help="folder of the cells' output (default %(default)s)")
    options = parser.parse_args(arguments)
    if not options.table and not options.render:
        parser.error("--table is missing; or give --render to write all tables")
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


@command
def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    from experiments.tables import results
    from experiments.tables.cells import plan
    from experiments.tables.render import render
    from experiments.tables.run import expected_hours, run
    from experiments.tables.tables import TABLES, narrowed

    frame = results.read(options.results)
    if options.render:
        names = [options.table] if options.table else [name for name in TABLES if name in set(frame["table"])]
        for name in names:
            render(TABLES[name], options.profile, frame, options.page, options.seeds)
            print(f"{name}: written to {options.page}")
        return 0
    table = narrowed(TABLES[options.table], options.tasks, options.methods)
    cells = plan(table, options.profile, seeds=options.seeds, device=options.device)
    if not cells:
        raise ConfigError(f"table {table.name} has none of these methods on these tasks")
    if options.look:
        from experiments.tables.look import look_at_cells

        look_at_cells(cells, options.look, options.results)
        return 0
    recorded = results.rows_of(cells, frame)
    waiting = [cell for cell in cells if cell.name not in recorded]
    print(f"table {table.name}, profile {options.profile}: {len(cells)} cells, {len(waiting)} to run")
    if waiting and (others := results.of_other_versions(cells, recorded)):
        raise ConfigError(
            f"{others[0]} and {len(others) - 1} other cells are of other versions of training, pictures or labels, so "
            f"cells that run now would not compare with them; take their rows out of {options.results} to run them anew"
        )
    if options.dry_run:
        for cell in waiting:
            print(f"{cell.name:50} {expected_hours(cell, frame):.2f} h")
        return 0
    jobs = options.jobs or JOBS[options.device]
    failed = run(cells, options.results, budget=options.budget, jobs=jobs, device=options.device, logs=options.logs)
    render(TABLES[table.name], options.profile, results.read(options.results), options.page, options.seeds)
    if failed:
        print(f"failed: {', '.join(failed)}; the same command tries them again")
    return NEGATIVE if failed else 0
