"""Look into trained policies: what can be read off their visual features, and when they need another policy's help.

    python scripts/look.py runs/assembly/small-* --probe --out report.html    # where objects are, by linear probes
    python scripts/look.py RUN… --takeover VISION_RUN --out report.html       # another policy acts for ten steps
    python scripts/look.py RUN… --out report.html                             # what earlier calls found

Writes the page of `gap-vla report` with what was found. Takeovers are kept in the runs, a probe beside the page, so
that later calls show them without doing them again; all are resumable. It runs from a checkout.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from gap_vla.cli.arguments import MANY, command_parser, processes, whole
from gap_vla.cli.report import add_page
from gap_vla.core.errors import command, keeping


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    from gap_vla.sim import VARIANT_NAMES

    parser = command_parser(__doc__)
    add_page(parser)
    add = parser.add_argument
    add("--probe", action="store_true", help="probe the visual features of small policies")
    add("--probe-episodes", type=whole(5, MANY), default=60, help="of the expert, collected for it (default 60)")
    add("--takeover", type=Path, metavar="RUN", help="policy that takes over in windows, usually the vision policy")
    add("--episodes", type=whole(1, MANY), default=50, help="rollouts per window (default 50)")
    add("--variant", choices=VARIANT_NAMES, default="default", help="scene of the takeovers (default: default)")
    add("--workers", type=processes, default=2, help="simulator processes (default 2)")
    options = parser.parse_args(arguments)
    if not options.takeover:
        parser.refuse_idle("without --takeover", "episodes", "variant")
    if not options.probe:
        parser.refuse_idle("without --probe", "probe_episodes")
    if not options.takeover and not options.probe:
        parser.refuse_idle("where nothing is simulated", "workers")
    return options


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from experiments.looks.command import look_into

    words = sys.argv[1:] if argv is None else argv
    with keeping("finished takeovers and probes are kept"):
        page = look_into(options, shlex.join(["python", "scripts/look.py", *words]))
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, opens without a network)")
