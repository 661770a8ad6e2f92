"""Measures how well change points and ρ meet the switches of the simulated experts, against other ways to find them,
and writes tables and figures, such as those of docs/PHASE_BENCHMARK.md.

Demonstrations are collected (without images) where DEMOS holds none. The stage `untouched` measures on recordings that
nobody looked at while the defaults were chosen: other seeds, places, disturbances and sizes, and tasks and experts of
others. About half an hour of computing in all with 40 episodes.

Examples:
    python scripts/phase_benchmark.py --tasks threading assembly --episodes 12
    python scripts/phase_benchmark.py --episodes 40 --out results/phases --figures docs/figures \\
        --page docs/PHASE_BENCHMARK.md
"""

from __future__ import annotations

from pathlib import Path

from gap_vla.cli.arguments import MANY, Parser, command_parser, whole
from gap_vla.core.errors import command

STAGES = ("finders", "rho", "sensitivity", "demonstrations", "width", "untouched")


def make_parser() -> Parser:
    from gap_vla.sim import TASK_NAMES

    parser = command_parser(__doc__)
    parser.add_argument("--demos", type=Path, default=Path("data/phase_demos"), help="folder of TASK.hdf5")
    parser.add_argument("--tasks", nargs="+", default=list(TASK_NAMES), help="default: all")
    parser.add_argument(
        "--episodes", type=whole(4, MANY), default=16, help="per task, half of them for tuning (default: 16)"
    )
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES, help="what to measure (default: all)")
    parser.add_argument("--sets", nargs="+", default=(), help="only these of the stage untouched; others' are kept")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/phases"),
        help="folder of a JSON per stage and tables.md (default: runs/phases)",
    )
    parser.add_argument("--page", type=Path, help="put the tables into this page, such as docs/PHASE_BENCHMARK.md")
    parser.add_argument("--figures", type=Path, help="folder of the pictures (default: OUT/figures)")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    arguments.figures = arguments.figures or arguments.out / "figures"
    if "untouched" not in arguments.stages:
        parser.refuse_idle("without the stage untouched", "sets")
    if not arguments.stages:
        parser.refuse_idle("without a stage", "tasks", "episodes", "demos")
    from experiments.phase_benchmark.command import measure

    measure(arguments, STAGES)
