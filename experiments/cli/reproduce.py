"""Reproduce a table: train and roll out its cells (task × method × seed), as many as fit into a budget of time.

    python scripts/reproduce.py --table evidence --profile cpu --budget 60m --jobs 2
    python scripts/reproduce.py --table main --dry-run                     # the queue with predicted times
    python scripts/reproduce.py --table octo --tasks threading --seeds 0
    python scripts/reproduce.py --table evidence --look probe,takeover     # what finished policies see and need
    python scripts/reproduce.py --render                                   # only write all tables again

Every finished cell is one JSON file in results/TABLE/PROFILE/. The same command continues after the budget, Ctrl-C or a
kill. Tables (ours beside the paper's) and pictures are written into docs/RESULTS.md between its markers, and the main
results into README.md unless --results or --page are others. Status 1 means that cells which were asked for have
failed; they are named.
"""

import argparse
from pathlib import Path

from gap_vla.cli.arguments import command_parser, processes
from gap_vla.core.errors import command


def names(text: str) -> list[str]:
    """At least one name, separated by commas, each once."""
    found = text.split(",")
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}; give names separated by single commas, each once")
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    from experiments.tables.tables import PROFILES, TABLES

    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--table", choices=tuple(TABLES), metavar="TABLE", help=f"one of {', '.join(TABLES)}")
    add("--profile", default="cpu", choices=PROFILES, help="size of model, data and training (default cpu)")
    add("--budget", default="60m", help="time for this call, such as 60m or 1.5h (default 60m)")
    add(
        "--jobs",
        type=processes,
        help="cells at once, one thread each if more than one (default 1; with --device cuda 4)",
    )
    add("--seeds", type=names, default=[], help="training seeds, such as 0,1 (default: the table's)")
    add("--methods", type=names, default=[], help="only these lines, by either kind's name: gap is vp_gap of an Octo")
    add("--tasks", type=names, default=[], help="only these tasks")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="where small policies train (default cpu)")
    add("--retry", action="store_true", help="try failed cells again")
    add("--dry-run", action="store_true", help="print the queue with predicted times, run and write nothing")
    add("--look", type=names, default=[], help="run nothing new; look into finished cells: probe,takeover,predict")
    add("--render", action="store_true", help="run nothing; write what is recorded, without --table all of it")
    add("--results", default="results", help="folder of the recorded cells (default results)")
    add("--page", default="docs/RESULTS.md", help="page to write into, made if it is missing (default docs/RESULTS.md)")
    add("--logs", default="runs/reproduce", help="folder for the cells' output (default runs/reproduce)")
    options = parser.parse_args(arguments)
    if not options.page.endswith(".md"):
        parser.error(f"--page {options.page}: the page is Markdown, .md")
    if Path(options.page).is_symlink() and not Path(options.page).exists():
        parser.error(f"--page {options.page} is a link that leads nowhere; remove it, or make what it names")
    for option, folder in (("--results", options.results), ("--logs", options.logs)):
        if Path(folder).exists() and not Path(folder).is_dir():
            parser.error(f"{option} {folder} is no folder; name one, or a place where there is nothing")
    if options.look:
        parser.refuse_idle("with --look, which trains nothing", "budget", "jobs", "retry", "device", "dry_run", "logs")
    if options.render:
        idle = ("budget", "jobs", "retry", "device", "dry_run", "look", "logs", "methods", "tasks")
        parser.refuse_idle("with --render, which runs nothing", *idle)
    if options.table and TABLES[options.table].kind == "octo":
        parser.refuse_idle("on tables of Octo, which is trained where JAX finds a device", "device")
    if options.render and not options.table:
        parser.refuse_idle("without --table", "seeds", "methods", "tasks")
    if options.dry_run:
        parser.refuse_idle("with --dry-run, which runs nothing", "budget", "logs")
    return options


@command
def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    from experiments.tables.command import reproduce

    return reproduce(options)
