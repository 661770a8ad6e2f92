"""What scripts/look.py does once its command line is read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.looks.page import sections
from experiments.looks.probe_data import collect_probe_demos
from experiments.looks.probing import probe_runs
from experiments.looks.takeover import take_over_runs
from gap_vla.cli.report import claim_page
from gap_vla.core.foreign import Section, refusing
from gap_vla.core.outputs import claim
from gap_vla.report.page import write_report
from gap_vla.report.runs import ReportError, Run, read_runs
from gap_vla.training.data import training_rho

_AGAIN = "look again with --probe"


def look_into(options: argparse.Namespace, command: str) -> Path:
    """Takeovers and a probe if asked for, then the page, which also shows those of earlier calls.

    Args:
        command: that asks for this, as the user gave it.
    """
    claim_page(options)
    runs = read_runs(options.runs)
    if options.takeover:
        others = [run for run in runs if run.path.resolve() != options.takeover.resolve()]
        if not others:
            raise ReportError(f"--takeover {options.takeover} is the only run; name another one that it takes over")
        for run in others:
            take_over_runs(
                run.path,
                options.takeover,
                by=options.by,
                episodes=options.episodes,
                variant=options.variant,
                workers=options.workers,
                command=command,
            )
    probe = _probe(runs, options, command)
    with refusing(f"{_kept(options)}: a probe that cannot be shown", _AGAIN, ReportError):
        more = sections(runs, probe)
    return write_report(
        options.runs, options.out, command=command, more=more, videos=options.videos, rho_of=training_rho
    )


def _probe(runs: list[Run], options: argparse.Namespace, command: str) -> dict[str, Any] | None:
    """The probe's result: made if asked for, otherwise that of an earlier call beside the same page."""
    kept = _kept(options)
    claim(kept, "probe", suffixes=(".json",))
    if not options.probe:
        return kept_probe(kept)
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
    return probe_runs(small, demos, kept.parent, command=command)


def _kept(options: argparse.Namespace) -> Path:
    return options.out.with_suffix(".probe") / "probe.json"


def kept_probe(file: Path) -> dict[str, Any] | None:
    """What an earlier call found, if there was one. Raises UserError: damaged, or numbers that are none."""
    if not file.exists():
        return None
    return _finite(Section.read(file, ReportError, _AGAIN).values, str(file))


def _finite(value: Any, where: str) -> Any:
    """A value of a kept result as it is; raises ReportError for a number in it that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(f"{where} is {value}, no measurement; {_AGAIN}")
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        _finite(part, f"{where}: {key}" if where.endswith(".json") else f"{where}.{key}")
    return value
