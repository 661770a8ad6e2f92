"""Measures the simulated tasks and writes the table and the pictures of docs/TASKS.md.

Only what docs/task_table.json does not hold yet, or of fewer episodes, is measured. On one core, everything takes
about 20 minutes:
    python scripts/task_table.py
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several threads per process make a step slower
from experiments.cli.reproduce import names
from gap_vla.cli.arguments import MANY, command_parser, whole
from gap_vla.core.errors import UserError, command, keeping
from gap_vla.core.locks import alone
from gap_vla.core.outputs import claim


@command
def main(argv: list[str] | None = None) -> None:
    from gap_vla.sim import TASK_NAMES, VARIANT_NAMES, task_spec, variant_spec

    parser = command_parser(__doc__)
    parser.add_argument("--tasks", type=names, default=list(TASK_NAMES), help="comma separated (default: all)")
    parser.add_argument("--variants", type=names, default=list(VARIANT_NAMES), help="comma separated (default: all)")
    parser.add_argument("--episodes", type=whole(1, MANY), default=100, help="per task and variant (default: 100)")
    parser.add_argument(
        "--look-episodes", type=whole(1, MANY), default=20, help="per variant that changes looks only (default: 20)"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of TASKS.md (default: docs)")
    parser.add_argument("--again", action="store_true", help="measure also what was measured before")
    parser.add_argument("--pictures", action="store_true", help="draw docs/pictures/<task>.png as well")
    options = parser.parse_args(argv)
    from experiments.pages import around, between, replace_between
    from experiments.task_table import PAGE_PART, as_markdown, draw_pictures, read_results, shown_cells, update_results

    tasks = [task_spec(name).name for name in options.tasks]
    looks = {variant_spec(variant).only_looks for variant in options.variants}
    for only, option in ((False, "episodes"), (True, "look_episodes")):
        if only not in looks:
            parser.refuse_idle(f"for variants that {'do not ' if only else ''}change looks only", option)
    table = options.docs / "task_table.json"
    read_results(table)
    claim(table, "task_table", suffixes=(".json",), named=False)
    for task in tasks if options.pictures else ():
        claim(options.docs / "pictures" / f"{task}.png", "task_picture", suffixes=(".png",), named=False)
    page = options.docs / "TASKS.md"
    around(page, PAGE_PART, if_missing="refuse")
    kept = keeping("what was measured is kept, the same command continues")
    with alone(table.with_name(f".{table.name}.lock"), f"{table}"), kept:
        held = {(task, name) for task, cells in read_results(table).items() for name in cells if task != "made_by"}
        held |= {*itertools.product(tasks, options.variants)}
        if lost := sorted(shown_cells(between(page, PAGE_PART)) - held):
            where = " on ".join(lost[0])
            raise UserError(f"{page} has measurements of {where}, {table} has none; put the page's own file there")
        results = update_results(
            table,
            tasks=tasks,
            variants=options.variants,
            n=options.episodes,
            n_looks=options.look_episodes,
            again=options.again,
        )
        replace_between(page, PAGE_PART, as_markdown(results), if_missing="refuse")
    if options.pictures:
        for task in tasks:
            print(draw_pictures(task, options.docs / "pictures"))
    print(page)
