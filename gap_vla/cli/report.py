"""One self-contained HTML page about some runs: success, curves, ρ, videos, and on request what explains them.

    gap-vla report runs/assembly/small-* --out report.html
    gap-vla report RUN… --probe --out report.html            # what can be read off the visual features
    gap-vla report RUN… --takeover VISION_RUN --out report.html    # another policy acts for ten steps
    gap-vla report RUN… --takeover VISION_RUN --by step --episodes 50 --out report.html

Takeovers are kept in the runs, a probe beside the page, so that later calls show them without doing them again; all
are resumable. The page needs no network and no files beside it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.cli.arguments import MANY, command_parser, processes, refuse_idle, whole
from gap_vla.core.errors import command, keeping
from gap_vla.core.foreign import Section
from gap_vla.core.outputs import claim, write_output
from gap_vla.core.whole import write_json

if TYPE_CHECKING:
    from gap_vla.report.runs import Run


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    from gap_vla.sim import VARIANT_NAMES

    parser = command_parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run directories of one task")
    add("--out", type=Path, default=Path("report.html"), help="page to write (default report.html)")
    add("--videos", type=whole(0, 1000), default=2, help="videos per run and scene, at most (default 2)")
    add("--probe", action="store_true", help="probe the visual features of small policies")
    add("--demos", type=Path, help="demonstrations to probe with (default: collected from the expert)")
    add("--probe-episodes", type=whole(2, MANY), default=60, help="how many are collected for it (default 60)")
    add("--takeover", type=Path, metavar="RUN", help="policy that takes over in windows, usually the vision policy")
    add("--by", choices=("phase", "step"), default="phase", help="windows: starts of phases, or every ten steps")
    add("--episodes", type=whole(1, MANY), default=50, help="rollouts per window (default 50)")
    add("--variant", choices=VARIANT_NAMES, default="default", help="scene of the takeovers (default: default)")
    add("--workers", type=processes, default=2, help="simulator processes (default 2)")
    options = parser.parse_args(arguments)
    if not options.takeover:
        refuse_idle(parser, options, "without --takeover", "by", "episodes", "variant")
    if not options.probe:
        refuse_idle(parser, options, "without --probe", "demos", "probe_episodes")
    if options.demos:
        refuse_idle(parser, options, "with --demos", "probe_episodes")
    return options


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    with keeping("finished takeovers and probes are kept"):
        _report(options, sys.argv[1:] if argv is None else argv)


def _report(options: argparse.Namespace, words: list[str]) -> None:
    """Probes and takeovers if asked for, then the page."""
    from gap_vla.report.page import write_report
    from gap_vla.report.runs import Run
    from gap_vla.training.finished import training_rho

    command_line = shlex.join(["gap-vla", "report", *words])
    claim(options.out, "runs_report", suffixes=(".html",))
    runs = [Run.read(path) for path in options.runs]
    if options.takeover:
        _take_over(runs, options, command_line)
    probe = _probe(runs, options, command_line)
    page = write_report(
        options.runs, options.out, command=command_line, probe=probe, videos=options.videos, rho_of=training_rho
    )
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, opens without a network)")


def _take_over(runs: list[Run], options: argparse.Namespace, command_line: str) -> None:
    from gap_vla.report.takeover import take_over_runs

    for run in runs:
        if run.path.resolve() == options.takeover.resolve():
            continue
        folder = take_over_runs(
            run.path,
            options.takeover,
            by=options.by,
            episodes=options.episodes,
            variant=options.variant,
            workers=options.workers,
        )
        settings = Section.read(folder / "settings.json").values
        write_json(folder / "settings.json", {**settings, "command": command_line})


def _probe(runs: list[Run], options: argparse.Namespace, command_line: str) -> dict[str, Any] | None:
    """The probe's result: made if asked for, otherwise that of an earlier call beside the same page."""
    kept = options.out.with_suffix(".probe") / "probe.json"
    claim(kept, "probe", suffixes=(".json",))
    if not options.probe:
        return dict(Section.read(kept).values) if kept.exists() else None
    from gap_vla.report.probe_data import collect_probe_demos
    from gap_vla.report.probing import probe_runs
    from gap_vla.report.runs import ReportError
    from gap_vla.training.finished import held_out_windows

    small = [run for run in runs if run.small]
    if not small:
        raise ReportError("only small policies can be probed, and none of these runs is one; leave --probe away")
    config = small[0].config
    demos = options.demos or collect_probe_demos(
        small[0].task,
        options.probe_episodes,
        Path(config["data"]["root"]),
        image_size=config["demos"]["image_size"],
        cameras=config["demos"]["cameras"],
        camera=config["demos"].get("camera", "near"),
        workers=options.workers,
    )
    found = probe_runs([run.path for run in small], demos, kept.parent, held_out_windows)
    result = {**found, "command": command_line}
    write_output(kept, "probe", json.dumps(result, indent=2))
    return result
