"""Measures how well change points and ρ meet the switches of the simulated experts, against other ways to find them.

    python scripts/phase_benchmark.py --tasks threading assembly --episodes 12
    python scripts/phase_benchmark.py --episodes 40 --out results/phases --figures docs/figures    # half an hour

Demonstrations are collected (without pictures) where DEMOS holds none. Each stage leaves a JSON file; tables and
pictures are written once all have run. The stage `untouched` measures on recordings that nobody looked at while the
defaults were chosen: other seeds, places, disturbances and sizes, and tasks and experts of others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gap_vla.core.errors import command

STAGES = ("finders", "rho", "sensitivity", "demonstrations", "width", "rates", "joints", "untouched")

RELEASED = "as released: every sample, no bound on weights, 100 epochs; lookahead 2"
LSTM_VARIANTS: dict[str, dict[str, Any]] = {
    "M5, lookahead 2 (default for labels)": {"lookahead": 2},
    "spread 4, lookahead 2": {"lookahead": 2, "spread": 4.0},
    "spread 2, lookahead 2": {"lookahead": 2, "spread": 2.0},
    "M5, causal": {"lookahead": 0},
    "spread 4, causal": {"lookahead": 0, "spread": 4.0},
    RELEASED: {"lookahead": 2, "epochs": 100, "greatest_weight": None, "scale": 1},
}
DRAWN = (
    "M5, lookahead 2 (default for labels)",
    RELEASED,
    "spread 2, lookahead 2",
    "spread 4, lookahead 2",
)
"""Variants whose ρ is drawn over a recording of each of `DRAWN_TASKS`."""
DRAWN_TASKS = ("assembly", "threading")


def measure(stage: str, options: argparse.Namespace, tasks: dict[str, Any]) -> None:
    """Runs a stage and writes what it found."""
    from experiments.phase_benchmark import joints, rates, study
    from gap_vla.core.files import read_json, write_json

    path = options.out / f"{stage}.json"

    def keep(results: dict[Any, Any]) -> None:
        write_json(path, {"recordings": {task: len(found) for task, found in tasks.items()}, "results": results})

    drawn = {task: found for task, found in tasks.items() if task in DRAWN_TASKS}
    at_once: dict[str, Callable[[], dict[Any, Any]]] = {
        "finders": lambda: study.compare(tasks),
        "rho": lambda: study.rho_scores(tasks, LSTM_VARIANTS),
        "sensitivity": lambda: study.sensitivity(tasks),
        "demonstrations": lambda: study.by_demonstrations(tasks),
        "width": lambda: study.widths(drawn, {name: LSTM_VARIANTS[name] for name in DRAWN}),
        "joints": lambda: joints.study(options.demos, tasks),
    }
    if stage in at_once:
        keep(at_once[stage]())
    elif stage == "rates":
        rates.rates(options.demos, options.tasks, keep)
    else:
        results = read_json(path)["results"] if options.sets and path.exists() else {}
        for name in options.sets or study.TITLES:
            results[name] = study.untouched(name, options.demos, options.tasks, options.episodes)
            keep(results)


@command
def main(argv: list[str] | None = None) -> None:
    from gap_vla.sim import TASK_NAMES, task_spec

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--demos", type=Path, default=Path("data/phase_demos"), help="folder of TASK.hdf5 (default %(default)s)")
    add("--tasks", nargs="+", default=list(TASK_NAMES), help="default: all")
    add("--episodes", type=int, default=16, help="per task, half of them for tuning (default 16)")
    add("--stages", nargs="*", default=STAGES, choices=STAGES, help="what to measure (default: all)")
    add("--sets", nargs="+", default=(), help="only these of the stage untouched; others' results are kept")
    add("--out", type=Path, default=Path("runs/phases"), help="folder of a JSON file a stage (default %(default)s)")
    add("--figures", type=Path, help="folder of the pictures (default: OUT/figures)")
    options = parser.parse_args(argv)
    options.tasks = [task_spec(name).name for name in options.tasks]
    from experiments.phase_benchmark.study import our_motions
    from experiments.phase_benchmark.tables import write

    tasks = {}
    if options.stages:
        tasks = {task: our_motions(options.demos, task, options.episodes, seed=7) for task in options.tasks}
    for stage in options.stages:
        measure(stage, options, tasks)
    files = {stage: options.out / f"{stage}.json" for stage in STAGES}
    if missing := [stage for stage, file in files.items() if not file.exists()]:
        print(f"no tables before the stages {', '.join(missing)} have run")
    else:
        print(*write(files, options.out, options.figures or options.out / "figures"), sep="\n")
