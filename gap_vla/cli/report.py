"""What scripts/report.py does once its command line is read."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from gap_vla.core.foreign import whole
from gap_vla.core.outputs import claim, write_output
from gap_vla.core.whole import write_json
from gap_vla.report.page import write_report
from gap_vla.report.runs import ReportError, Run
from gap_vla.rollouts.settings import Settings
from gap_vla.training.config import EPISODES


def report(options: argparse.Namespace) -> None:
    """Probes and takeovers if asked for, then the page."""
    command = shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    Settings(options.episodes, 0, options.workers, videos=options.videos)
    whole("probe_episodes", options.probe_episodes, 2, int(EPISODES.most), ReportError)
    claim(options.out, "runs_report", suffixes=(".html",))
    runs = [Run.read(path) for path in options.runs]
    if options.takeover:
        _take_over(runs, options, command)
    probe = _probe(runs, options, command)
    page = write_report(options.runs, options.out, command=command, probe=probe, videos=options.videos)
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, opens without a network)")


def _take_over(runs: list[Run], options: argparse.Namespace, command: str) -> None:
    from experiments.probes.takeover_run import take_over_runs

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
        settings = json.loads((folder / "settings.json").read_text())
        write_json(folder / "settings.json", {**settings, "command": command})


def _probe(runs: list[Run], options: argparse.Namespace, command: str) -> dict[str, Any] | None:
    """The probe's result: made if asked for, otherwise that of an earlier call beside the same page."""
    kept = options.out.with_suffix(".probe") / "probe.json"
    claim(kept, "probe", suffixes=(".json",))
    if not options.probe:
        return json.loads(kept.read_text()) if kept.exists() else None
    from experiments.probes.probe_data import collect_probe_demos
    from experiments.probes.probe_run import probe_runs

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
    result = {**probe_runs([run.path for run in small], demos, kept.parent), "command": command}
    write_output(kept, "probe", json.dumps(result, indent=2))
    return result
