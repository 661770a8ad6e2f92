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

STAGES = ("finders", "rho", "sensitivity", "demonstrations", "width", "untouched")

LSTM_VARIANTS: dict[str, dict[str, Any]] = {
    "M5, lookahead 2 (default for labels)": {"lookahead": 2},
    "spread 4, lookahead 2": {"lookahead": 2, "spread": 4.0},
    "spread 2, lookahead 2": {"lookahead": 2, "spread": 2.0},
    "M5, causal": {"lookahead": 0},
    "spread 4, causal": {"lookahead": 0, "spread": 4.0},
    "M5, lookahead 2, 100 epochs": {"lookahead": 2, "epochs": 100},
}
DRAWN = (
    "M5, lookahead 2 (default for labels)",
    "M5, lookahead 2, 100 epochs",
    "spread 2, lookahead 2",
    "spread 4, lookahead 2",
)
"""Variants whose ρ is drawn over a recording."""


def measure(options: argparse.Namespace) -> None:
    """Runs the stages that are asked for; each keeps what it has after every line."""
    from experiments.phase_benchmark.motions import load_motions
    from experiments.phase_benchmark.sensitivity import by_demonstrations, sensitivity, widths
    from experiments.phase_benchmark.study import compare, rho_scores, untouched
    from gap_vla.core.files import read_json, write_json

    tasks = {}
    for task in options.tasks:
        path = options.demos / f"{task}.hdf5"
        if not path.exists():
            from gap_vla.sim import collect_demos

            collect_demos(task, options.episodes, path, seed=7, cameras=())
        tasks[task] = load_motions(path, options.episodes)
    run: dict[str, Callable[[Callable[[Any], Any]], Any]] = {
        "finders": lambda keep: compare(tasks, keep=keep),
        "rho": lambda keep: rho_scores(tasks, LSTM_VARIANTS, keep=keep),
        "sensitivity": lambda keep: keep(sensitivity(tasks)),
        "demonstrations": lambda keep: keep(by_demonstrations(tasks)),
        "width": lambda keep: keep(widths(tasks, {name: LSTM_VARIANTS[name] for name in DRAWN})),
        "untouched": lambda keep: untouched(options.demos, options.tasks, options.episodes, keep, options.sets),
    }
    counts = {task: len(recordings) for task, recordings in tasks.items()}
    for stage in options.stages:
        path = options.out / f"{stage}.json"
        other_sets = read_json(path)["results"] if stage == "untouched" and options.sets and path.exists() else {}

        def keep(found: dict[str, Any], path: Path = path, others: dict[str, Any] = other_sets) -> None:
            write_json(path, {"recordings": counts, "results": {**others, **found}})

        run[stage](keep)


def show(options: argparse.Namespace) -> None:
    """Writes tables and pictures from what all stages have left."""
    from experiments.phase_benchmark.sensitivity import draw_widths
    from experiments.phase_benchmark.tables import draw, markdown
    from gap_vla.core.files import read_json

    files = {stage: options.out / f"{stage}.json" for stage in STAGES}
    if missing := [stage for stage, file in files.items() if not file.exists()]:
        print(f"no tables before the stages {', '.join(missing)} have run")
        return
    results = {stage: read_json(file) for stage, file in files.items()}
    options.figures.mkdir(parents=True, exist_ok=True)
    tables = markdown(results)
    (options.out / "tables.md").write_text(tables, encoding="utf-8")
    pictures = [*draw(results, options.figures), draw_widths(results["width"]["results"], options.figures)]
    print(options.out / "tables.md", *pictures, sep="\n")


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
    options.figures = options.figures or options.out / "figures"
    if options.stages:
        measure(options)
    show(options)
