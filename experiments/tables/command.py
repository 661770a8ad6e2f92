"""What scripts/reproduce.py does once its command line is read."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from experiments.pages import FRONT, around
from experiments.tables.cells import KINDS, Cell, Kind, plan
from experiments.tables.front import Row, front_rows, write_front_page
from experiments.tables.ledger import FAILED, FINISHED, Ledger
from experiments.tables.looks import look
from experiments.tables.queue import QueueOptions, machine, predict, run_queue, waiting_cells
from experiments.tables.render import marker_name, render
from experiments.tables.results import analyse
from experiments.tables.tables import ON_FRONT_PAGE, TABLES, Table, narrowed
from gap_vla.core.errors import NEGATIVE
from gap_vla.core.foreign import shown
from gap_vla.core.outputs import require_apart
from gap_vla.core.progress import duration
from gap_vla.core.typed_config import ConfigError

JOBS = {"cpu": 1, "cuda": 4}
"""Cells at once where --jobs names no number: those of a GPU wait for their simulators most of the time."""

RESULTS, PAGE, FRONT_PAGE = "results", "docs/RESULTS.md", "README.md"
"""Folder of the project's own cells, their page, and the page that shows the main ones."""

OWN_SEEDS = ("map", "lines", "confirmation")
"""Shapes of tables whose sentences are about the table's own seeds, however many more have been trained."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A budget of time. Raises ConfigError: no such time, or not from a second to a year.

    >>> seconds("60m"), seconds("1.5h"), seconds("1h30m"), seconds("90s")
    (3600.0, 5400.0, 5400.0, 90.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text, re.ASCII)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"--budget is {text!r}; give a time such as 60m, 1.5h, 1h30m or 90s")
    if not 1 <= (total := sum(float(number) * _UNITS[unit] for number, unit in parts)) <= 366 * 86_400:
        raise ConfigError(f"--budget is {shown(text)}; give at least a second and at most a year, such as 60m")
    return total


def reproduce(options: argparse.Namespace) -> int:
    """Runs what fits into the budget, then renders, also after Ctrl-C; without a table only renders them all. Returns
    the exit status: 1 if cells that were asked for have failed, now or before, and were not tried again.
    """
    if not options.table:
        if not options.render:
            raise ConfigError(f"--table is missing; give one of {', '.join(TABLES)}, or --render to render all of them")
        require_results(options.results, f"*/{options.profile}")
        render_all(options)
        return 0
    budget = seconds(options.budget)
    options.jobs = JOBS[options.device] if options.jobs is None else options.jobs
    runs = not (options.dry_run or options.render or options.look)
    if runs and machine(options.device).get("device_name") == "none":
        raise ConfigError(
            "--device is cuda, but torch finds no CUDA device here: leave --device out, or install a build of torch "
            "for this machine's GPU into .venv"
        )
    whole = TABLES[options.table]
    table = narrowed(whole, tuple(options.tasks), tuple(options.methods))
    kind = KINDS[table.kind]
    seeds = _seeds(options.seeds)
    if options.render and seeds and (whole.shape in OWN_SEEDS or {*seeds} <= {*whole.seeds}):
        raise ConfigError("--seeds has no effect with --render, which shows the table's own seeds; leave it out")
    require_apart(Path(options.page), options.results)
    if options.render:
        require_results(options.results, f"{table.name}/{options.profile}")
    around(Path(options.page), marker_name(table.name, options.profile))
    if whole.name in ON_FRONT_PAGE and _is_own(options):
        around(Path(FRONT_PAGE), FRONT, if_missing="leave")
    cells = plan(table, options.profile, kind, seeds=seeds, device=options.device)
    ledger = Ledger(options.results, table.name, options.profile)
    for one in ledger.stale(cells):
        print(
            f"{ledger.path(one.cell)} is stale ({'; '.join(one.reasons)}): it counts in no table; running replaces it"
        )
    stopped = False
    if options.dry_run:
        print(describe_queue(cells, ledger, kind, options))
        return 0
    command = shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    if options.look:
        look(cells, ledger, kind, options.look, command)
    elif runs:
        queue = QueueOptions(budget, options.jobs, options.retry, options.device, Path(options.logs), command)
        print(describe_queue(cells, ledger, kind, options), flush=True)
        signal.signal(signal.SIGTERM, _as_interrupt)
        try:
            run_queue(cells, ledger, kind, queue)
        except KeyboardInterrupt:
            stopped = True
    shown = {*whole.seeds, *(seeds or () if whole.shape not in OWN_SEEDS else ())}
    every = plan(whole, options.profile, kind, seeds=sorted(shown), device=options.device)
    pages = render(whole, options.profile, every, ledger, Path(options.page), _is_own(options))
    if whole.name in ON_FRONT_PAGE:
        pages += _render_front(options)
    print(f"cells: {ledger.directory}; tables and pictures: {', '.join(map(str, pages))}")
    if stopped:
        raise KeyboardInterrupt("finished cells are recorded; the same command goes on")
    failed = [cell.name for cell in cells if (entry := ledger.matching(cell)) and entry.status == FAILED]
    if runs and failed:
        print(f"failed: {', '.join(failed)}; their reasons stand in {options.page}, --retry tries them again")
        return NEGATIVE
    return 0


def require_results(folder: str | Path, below: str) -> None:
    """Raises ConfigError if there are no cells in such folders below it, so that every table would be empty."""
    if not any(Path(folder).glob(f"{below}/*.json")):
        raise ConfigError(
            f"--results {folder} holds no cell ({below}/*.json): there is nothing to show; name the folder of the "
            "tables' cells, or run the table first"
        )


def render_all(options: argparse.Namespace) -> None:
    """Writes the tables of everything that is recorded, and the front page."""
    rendered = set[str]()
    for table in TABLES.values():
        if list((Path(options.results) / table.name / options.profile).glob("*.json")):
            cells, ledger = _own_cells(table, options)
            pages = render(table, options.profile, cells, ledger, Path(options.page), _is_own(options))
            stale = f"{len(ledger.stale(cells))} of {len(cells)} cells are stale"
            print(f"{table.name}: {stale}; written to {', '.join(map(str, pages))}")
            rendered.add(table.name)
    for folder in sorted(Path(options.results).glob(f"*/{options.profile}")):
        if folder.parent.name not in TABLES:
            print(f"note: not shown, of no table: {folder}")
    if rendered & {*ON_FRONT_PAGE}:
        for page in _render_front(options):
            print(f"main results: written to {page}")


def _is_own(options: argparse.Namespace) -> bool:
    """Whether the project's own results are written into its own page, with which other pages are kept in step."""
    return all(Path(a).absolute() == Path(b).absolute() for a, b in ((options.results, RESULTS), (options.page, PAGE)))


def _render_front(options: argparse.Namespace) -> list[Path]:
    """Writes the project's front page, if this call writes the project's own results."""
    page = Path(FRONT_PAGE)
    own = _is_own(options) and options.profile == "cpu" and page.exists()
    if not own or not around(page, FRONT, if_missing="leave"):
        return []
    rows: list[Row] = []
    for table in (TABLES[name] for name in ON_FRONT_PAGE):
        cells, ledger = _own_cells(table, options)
        rows += front_rows(table, [analyse(block, cells, ledger) for block in table.blocks])
    write_front_page(rows, page)
    return [page]


def _own_cells(table: Table, options: argparse.Namespace) -> tuple[list[Cell], Ledger]:
    """The cells of a table's own seeds, and where they are recorded."""
    cells = plan(table, options.profile, KINDS[table.kind], device=options.device)
    return cells, Ledger(options.results, table.name, options.profile)


def _seeds(texts: Sequence[str]) -> list[int] | None:
    if not all(text.isascii() and text.isdecimal() for text in texts):
        raise ConfigError(f"--seeds is {','.join(texts)!r}; give whole numbers separated by commas, such as 0,1,2")
    return [int(text) for text in texts] or None


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def describe_queue(cells: Sequence[Cell], ledger: Ledger, kind: Kind, options: argparse.Namespace) -> str:
    """The queue with its predicted times, and what is recorded already."""
    known = ledger.all_entries()
    here = machine(options.device, options.jobs)
    waiting = waiting_cells(cells, ledger, retry=options.retry)
    lines = []
    total = 0.0
    for number, cell in enumerate(waiting, 1):
        needed, source = predict(cell, known, kind, here)
        total += needed
        started = " (started before)" if kind.run_directory(cell.config).exists() else ""
        took, until = duration(needed), duration(total / options.jobs)
        lines.append(f"{number:4}  {cell.name:44} {took:>12}   after {until:>12}   {source}{started}")
    states = [entry.status for cell in cells if (entry := ledger.matching(cell)) is not None]
    failed = states.count(FAILED)
    head = (
        f"table {ledger.table}, profile {ledger.profile}: {len(cells)} cells, {states.count(FINISHED)} finished, "
        f"{failed} failed{' (give --retry to try them again)' if failed and not options.retry else ''}, "
        f"{len(waiting)} to run in about {duration(total / options.jobs)} with {options.jobs} at once "
        f"on {os.cpu_count()} cores"
    )
    return "\n".join([head, *lines])
