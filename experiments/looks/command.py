"""What scripts/look.py does once its command line is read."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.looks.kept import AGAIN, kept_probe
from experiments.looks.page import sections
from experiments.looks.probe_data import collect_probe_demos
from experiments.looks.probing import policy_of, probe_runs
from experiments.looks.takeover import take_over_runs
from gap_vla.core import files
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import refusing
from gap_vla.core.outputs import claim
from gap_vla.report.page import write_report
from gap_vla.report.runs import read_runs
from gap_vla.training.data import training_rho


def look_into(options: argparse.Namespace, command: str) -> Path:
    """Takeovers and a probe if asked for, then the page, which also shows those of earlier calls and this `command`."""
    files.claim(options.out, overwrite=options.overwrite)
    runs = read_runs(options.runs)
    small = [run for run in runs if run.small]
    if options.probe and not small:
        raise UserError("only small policies can be probed, and none of these runs is one; leave --probe away")
    kept = options.out.with_suffix(".probe") / "probe.json"
    claim(kept, "probe", suffixes=(".json",), named=False)
    sizes: dict[Path, int] = {}
    for run in small if options.probe else ():
        policy = policy_of(run)  # one that is missing or damaged is found before demonstrations are collected
        if policy.uses_vision or run is small[0]:  # whose pictures all are probed with
            sizes[run.path] = run.config["demos"]["image_size"]
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{path} {size}" for path, size in sizes.items())
        raise UserError(
            f"a probe shows all runs the same pictures, and they see other sizes ({told}); probe them apart"
        )
    probe = None if options.probe else kept_probe(kept, runs)
    if options.takeover:
        others = [run for run in runs if run.path.resolve() != options.takeover.resolve()]
        if not others:
            raise UserError(f"--takeover {options.takeover} is the only run; name another one that it takes over")
        for run in others:
            take_over_runs(
                run.path,
                options.takeover,
                episodes=options.episodes,
                variant=options.variant,
                workers=options.workers,
                command=command,
            )
    if options.probe:
        demos = collect_probe_demos(small[0], options.probe_episodes, workers=options.workers)
        probe = probe_runs(small, demos, kept, command=command)
    with refusing(f"{kept}: a probe that cannot be shown", AGAIN, UserError):
        more = sections(runs, probe)
    return write_report(
        options.runs, options.out, command=command, more=more, videos=options.videos, rho_of=training_rho
    )
