"""One self-contained HTML page about some runs: success, how far episodes got, curves, ρ, films.

    gap-vla report runs/assembly/small-* --out report.html

The page needs no network and no files beside it. What policies see and need is found out by scripts/look.py of the
repository, which writes the same page with the answers.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from gap_vla.cli.arguments import command_parser
from gap_vla.core.errors import command
from gap_vla.core.files import claim


def add_page(parser: argparse.ArgumentParser) -> None:
    """The runs and the page of a command that writes about runs."""
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run directories of one task")
    add("--out", type=Path, default=Path("report.html"), help="page to write (default report.html)")
    add("--overwrite", action="store_true", help="replace the page if it exists")
    add("--videos", type=int, default=2, help="videos per run and scene, at most (default 2)")


@command
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__doc__)
    add_page(parser)
    options = parser.parse_args(argv)
    from gap_vla.report.page import write_report
    from gap_vla.training.data import training_rho

    claim(options.out, overwrite=options.overwrite)
    line = shlex.join(["gap-vla", "report", *(sys.argv[1:] if argv is None else argv)])
    page = write_report(options.runs, options.out, command=line, videos=options.videos, rho_of=training_rho)
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, opens without a network)")
