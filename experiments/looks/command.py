"""Look into trained policies: where their visual features say that objects are, and when they need another's help.

    python scripts/look.py runs/assembly/small-* --probe                 # linear probes of small policies
    python scripts/look.py VP_RUN --takeover V_RUN                       # another policy acts for ten steps

Prints what was found, and writes it with all figures as JSON. Takeovers continue where they were stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gap_vla.core.errors import command


@command
def main(argv: list[str] | None = None) -> None:
    from gap_vla.sim import VARIANT_NAMES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run directories")
    add("--probe", action="store_true", help="probe the visual features of small policies")
    add("--probe-episodes", type=int, default=60, help="of the expert, collected for it (default 60)")
    add("--takeover", type=Path, metavar="RUN", help="policy that takes over in windows, usually the vision policy")
    add("--episodes", type=int, default=50, help="rollouts per window (default 50)")
    add("--variant", choices=VARIANT_NAMES, default="default", help="scene of the takeovers (default: default)")
    add("--workers", type=int, default=2, help="simulator processes (default 2)")
    add("--out", type=Path, default=Path("look.json"), help="file of all figures (default look.json)")
    options = parser.parse_args(argv)
    if not options.probe and not options.takeover:
        parser.error("nothing is asked; give --probe, --takeover RUN or both")
    from experiments.looks.probe import probe_runs
    from experiments.looks.takeover import take_over_runs
    from gap_vla.core.files import write_json
    from gap_vla.drawing.markup import text_table
    from gap_vla.report.runs import Run, read_runs

    runs = read_runs(options.runs)
    found: dict[str, Any] = {}
    if options.probe:
        found["probes"] = probe_runs(runs, options.probe_episodes, options.workers)
        print(text_table(probe_rows(found["probes"])), end="\n\n")
    if options.takeover:
        other = Run.read(options.takeover)
        how = {"episodes": options.episodes, "variant": options.variant, "workers": options.workers}
        for run in runs:
            windows = take_over_runs(run, other, **how)
            found.setdefault("takeovers", {})[run.label] = {"other": other.label, "windows": windows}
            print(f"{other.label} takes over from {run.label}")
            print(text_table(takeover_rows(windows, options.episodes)), end="\n\n")
    write_json(options.out, found)
    print(options.out)


def probe_rows(probes: dict[str, Any]) -> list[list[str]]:
    """R² and error (cm) of each object's position, read off every policy's features."""
    rows = [["held-out", *probes]]
    for name, parts in next(iter(probes.values())).items():
        for part in parts:
            found = [one[name][part] for one in probes.values()]
            rows.append([f"{name}, {part}", *(f"R² {one['r2']:.2f} {100 * one['error']:.1f} cm" for one in found)])
    return rows


def takeover_rows(windows: list[dict[str, Any]], episodes: int) -> list[list[str]]:
    """Success in each window, and its difference to no takeover."""
    rows = [["the other policy acts", f"success of {episodes}", "points", "95 % interval", "McNemar p"]]
    for one in windows:
        low, high = (f"{100 * end:+.0f}" for end in one["difference_interval"])
        change = f"{100 * one['difference']:+.0f}"
        rows.append([one["window"], str(one["successes"]), change, f"{low} to {high}", f"{one['p_mcnemar']:.2g}"])
    return rows
