"""One self-contained HTML page about some runs: success, how far episodes got, curves, ρ, videos.

    gap-vla report runs/assembly/small-* --out report.html

The page needs no network and no files beside it. What policies see and need is found out by scripts/look.py of the
repository, which writes the same page with the answers.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from gap_vla.cli.arguments import command_parser, whole
from gap_vla.core.errors import command
from gap_vla.core.outputs import claim


def add_page(parser: argparse.ArgumentParser) -> None:
    """The runs and the page of a command that writes about runs."""
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run directories of one task")
    add("--out", type=Path, default=Path("report.html"), help="page to write (default report.html)")
    add("--videos", type=whole(0, 1000), default=2, help="videos per run and scene, at most (default 2)")


def claim_page(options: argparse.Namespace) -> None:
    """Makes sure that the page may be written: also into a run, but not into the folders of one, which are read."""
    runs = [*options.runs, *filter(None, [getattr(options, "takeover", None)])]  # the latter of scripts/look.py alone
    folders = [folder for run in runs for folder in run.glob("*/")]
    claim(options.out, "runs_report", sources=folders, suffixes=(".html",))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    parser = command_parser(__doc__)
    add_page(parser)
    return parser.parse_args(arguments)


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from gap_vla.report.page import write_report
    from gap_vla.training.data import training_rho

    claim_page(options)
    line = shlex.join(["gap-vla", "report", *(sys.argv[1:] if argv is None else argv)])
    page = write_report(options.runs, options.out, command=line, videos=options.videos, rho_of=training_rho)
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, opens without a network)")
    if options.out.with_suffix(".probe").exists() or any((run / "takeover").is_dir() for run in options.runs):
        print("python scripts/look.py, called in the same way, also shows the probes and takeovers that were made")
