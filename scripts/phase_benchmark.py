"""Measures how well change points and ρ meet the switches of the simulated experts, against other ways to find them,
and writes the tables and figures of docs/PHASES.md.

Demonstrations are collected (without images) where DEMOS holds none. The stage `untouched` measures on recordings that
nobody looked at while the defaults were chosen: other seeds, places, disturbances and sizes, and tasks and experts of
others. About half an hour of computing in all with 40 episodes.

Examples:
    python scripts/phase_benchmark.py --episodes 40 --demos data/phase_demos --out results/phases
    python scripts/phase_benchmark.py --tasks threading assembly --episodes 12 --out /tmp/phases
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import MANY, command_parser, whole
from gap_vla.core.errors import UserError, command

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # experiments/ is part of the checkout, of no package

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

STAGES = ("finders", "rho", "sensitivity", "demonstrations", "width", "untouched")


def make_parser() -> argparse.ArgumentParser:
    from gap_vla.sim import TASK_NAMES

    parser = command_parser(__doc__)
    parser.add_argument("--demos", type=Path, default=Path("data/phase_demos"), help="folder of TASK.hdf5")
    parser.add_argument("--tasks", nargs="*", default=list(TASK_NAMES), help="default: all")
    parser.add_argument(
        "--episodes", type=whole(4, MANY), default=16, help="per task, half of them for tuning (default: 16)"
    )
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES, help="what to measure (default: all)")
    parser.add_argument("--finders", nargs="*", help="only these of the stage finders; others' results are kept")
    parser.add_argument("--sets", nargs="*", default=(), help="only these of the stage untouched; others' are kept")
    parser.add_argument(
        "--out", type=Path, default=Path("results/phases"), help="folder of a JSON per stage and tables.md"
    )
    parser.add_argument("--page", type=Path, help="put the tables into this page, such as docs/PHASES.md")
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"), help="folder of the pictures")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    arguments = make_parser().parse_args(argv)
    from experiments.pages import replace_between
    from experiments.phase_benchmark.finders import FINDERS
    from experiments.phase_benchmark.motions import load_motions
    from experiments.phase_benchmark.sensitivity import by_demonstrations, draw_widths, sensitivity, widths
    from experiments.phase_benchmark.study import TITLES, compare, rho_scores, untouched
    from experiments.phase_benchmark.tables import PAGE_PART, draw, markdown
    from gap_vla.core.outputs import claim, write_output

    if unknown := sorted(set(arguments.finders or ()) - set(FINDERS)):
        raise UserError(f"no finder {unknown[0]!r}; there are: {'; '.join(FINDERS)}")
    if unknown := sorted(set(arguments.sets) - set(TITLES)):
        raise UserError(f"no set {unknown[0]!r}; there are: {', '.join(TITLES)}")
    outputs = [*(f"{stage}.json" for stage in arguments.stages), "tables.md"]
    for output in outputs:
        claim(arguments.out / output, "phase_benchmark", suffixes=(".json", ".md"))
    tasks = {}
    for task in arguments.tasks:
        path = arguments.demos / f"{task}.hdf5"
        if not path.exists():
            from gap_vla.sim import collect_demos

            collect_demos(task, arguments.episodes, path, seed=7, cameras=())
        tasks[task] = load_motions(path, arguments.episodes)
    finders = {name: finder for name, finder in FINDERS.items() if name in (arguments.finders or FINDERS)}
    run: dict[str, Any] = {
        "finders": lambda keep: compare(tasks, finders, keep=keep),
        "rho": lambda keep: rho_scores(tasks, LSTM_VARIANTS, keep=keep),
        "sensitivity": lambda keep: keep(sensitivity(tasks)),
        "demonstrations": lambda keep: keep(by_demonstrations(tasks)),
        "width": lambda keep: keep(widths(tasks, {name: LSTM_VARIANTS[name] for name in DRAWN})),
        "untouched": lambda keep: untouched(arguments.demos, arguments.tasks, arguments.episodes, keep, arguments.sets),
    }
    counts = {task: len(recordings) for task, recordings in tasks.items()}
    for stage in arguments.stages:
        path = arguments.out / f"{stage}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        part = (stage == "untouched" and arguments.sets) or (arguments.finders and before.get("recordings") == counts)
        kept = before.get("results", {}) if part else {}

        def keep(results: dict[str, Any], path: Path = path, kept: dict[str, Any] = kept) -> None:
            write_output(
                path, "phase_benchmark", json.dumps({"recordings": counts, "results": kept | results}, indent=2)
            )

        run[stage](keep)
    if (path := arguments.out / "width.json").exists() and (found := json.loads(path.read_text())["results"]):
        print(draw_widths(found, arguments.figures / "phases_width.png"))
    missing = [stage for stage in STAGES if not (arguments.out / f"{stage}.json").exists()]
    if missing:
        print(f"{arguments.out}: no tables before the stages {', '.join(missing)} have run")
        return
    results = {stage: json.loads((arguments.out / f"{stage}.json").read_text()) for stage in STAGES}
    tables = markdown(results)
    write_output(arguments.out / "tables.md", "phase_benchmark", tables)
    print(arguments.out / "tables.md", *draw(results, arguments.figures), sep="\n")
    if arguments.page:
        print(replace_between(arguments.page, PAGE_PART, tables.rstrip(), if_missing="refuse"))


if __name__ == "__main__":
    sys.exit(main())
