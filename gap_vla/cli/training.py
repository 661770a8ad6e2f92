"""The commands that train, compare and report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.cli.arguments import command_parser, names, numbers
from gap_vla.core.errors import NEGATIVE, command

if TYPE_CHECKING:
    from gap_vla.training.config import Experiment


@command
def finetune(argv: list[str] | None = None) -> None:
    """Fine-tune Octo: demonstrations, phases, RLDS, training, rollouts, summary.

        gap-vla finetune --config finetune_configs/threading.py                      # everything, default profile
        gap-vla finetune --config finetune_configs/threading.py:debug                # the same path in a minute
        gap-vla finetune --config finetune_configs/threading.py --config.method=vp   # v | vp | vp_slow | vp_gap
        gap-vla finetune --config finetune_configs/threading.py:paper --dry-run      # build, describe, stop
        gap-vla finetune --config FILE --config.task=bowl --config.demos.path=DATA   # your demonstrations

    Stages that are there already (demonstrations, dataset, episode store) are reused. The results lie in
    runs/TASK/NAME/: config.json, checkpoint/, metrics.jsonl, tensorboard/, first_batch.png, rollouts/, summary.json,
    and report.html, the page to look at.
    """
    from gap_vla.training.octo import FinetuneConfig

    _train(finetune, FinetuneConfig, argv)


@command
def train_small(argv: list[str] | None = None) -> None:
    """Train a small torch policy with any of the methods, roll it out, and say how often it succeeds.

        gap-vla train-small --config finetune_configs/small_assembly.py --config.method=gap
        gap-vla train-small --config finetune_configs/small_threading.py --config.method=concat
        gap-vla train-small --config finetune_configs/small_assembly.py:debug      # the same path in less than a minute

    The same command as `gap-vla finetune`; its help lists the keys of small policies. Methods: docs/POLICIES.md. The
    results lie in runs/TASK/small-METHOD-…/.
    """
    from gap_vla.training.torch import SmallConfig

    _train(train_small, SmallConfig, argv)


def _train(command: Callable[..., Any], kind: type[Experiment], argv: list[str] | None) -> None:
    """Whatever the backend; `kind` is the one whose keys the help lists without a file."""
    from gap_vla.cli.configured import parse_configured
    from gap_vla.training.run import TrainingRun

    parser = command_parser(command)
    how = parser.add_mutually_exclusive_group().add_argument
    how("--resume", action="store_true", help="go on with this configuration's run from its last state, or begin")
    how("--dry-run", action="store_true", help="say what would be read and trained, and stop")
    parser.add_argument("--run-name", default="", help="of the folder in runs/TASK/ (default: method, seed and hash)")
    config, options = parse_configured(parser, kind, argv)
    run = TrainingRun(config, options.run_name)
    print(run.dry_run() if options.dry_run else run.report(run.to_the_end(options.resume)))


@command
def compare(argv: list[str] | None = None) -> int:
    """Compare V, VP, VP with a slower branch and VP+GAP over seeds on the same data and the same evaluation layouts.

        gap-vla compare --config finetune_configs/assembly.py --seeds 0,1,2
        gap-vla compare --config finetune_configs/assembly.py --seeds 0 --methods vp,vp_gap

    Every (method, seed) is a run of `gap-vla finetune`, or of `train-small` where the configuration is one of small
    policies (v, vp and vp_gap are called vision, concat and gap there). Finished ones are skipped and started ones go
    on, so this command can be stopped at any moment (Ctrl-C) and given again. It prints success per method (mean over
    seeds, interval) and the paired differences, and leaves the same as table.md and table.png in
    runs/TASK/compare-HASH/. Status 1 means that runs failed; they are named, and tried again when the command is given
    again.
    """
    from gap_vla.cli.configured import parse_configured
    from gap_vla.training.comparison import compare_methods, comparison_directory
    from gap_vla.training.octo import FinetuneConfig

    methods = FinetuneConfig.methods
    parser = command_parser(compare)
    add = parser.add_argument
    add("--seeds", type=numbers, default=[0, 1, 2], metavar="N,N", help="training seeds (default: 0,1,2)")
    add("--methods", type=names, default=list(methods), metavar="NAME,NAME", help=f"default: {','.join(methods)}")
    config, options = parse_configured(parser, FinetuneConfig, argv)
    text, failed, _ = compare_methods(config, options.methods, options.seeds)
    print(f"{text}\ntable.md and table.png lie in {comparison_directory(config)}" if text else "no run has finished")
    if failed:
        print(f"failed: {'; '.join(failed)} (reasons above)")
    return NEGATIVE if failed else 0


@command
def report(argv: list[str] | None = None) -> None:
    """One self-contained HTML page about some runs: success, how far episodes got, curves, ρ, films.

        gap-vla report runs/assembly/small-* --out report.html

    The page needs no network and no files beside it.
    """
    parser = command_parser(report)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run directories of one task")
    add("--out", type=Path, default=Path("report.html"), help="page to write (default report.html)")
    add("--overwrite", action="store_true", help="replace the page if it exists")
    add("--videos", type=int, default=2, help="videos per run and scene, at most (default 2)")
    options = parser.parse_args(argv)
    from gap_vla.core.files import claim
    from gap_vla.report.page import write_report
    from gap_vla.training.data import training_rho

    claim(options.out, overwrite=options.overwrite)
    line = shlex.join(["gap-vla", "report", *(sys.argv[1:] if argv is None else argv)])
    page = write_report(options.runs, options.out, command=line, videos=options.videos, rho_of=training_rho)
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, opens without a network)")
