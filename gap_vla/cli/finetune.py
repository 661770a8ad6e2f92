"""Fine-tune Octo with GAP: demonstrations, phases, RLDS, training, rollouts, summary.

    gap-vla finetune --config finetune_configs/threading.py                      # everything, default profile
    gap-vla finetune --config finetune_configs/threading.py:debug                # the same path in a minute
    gap-vla finetune --config finetune_configs/threading.py --config.method=vp   # v | vp | vp_gap
    gap-vla finetune --config finetune_configs/threading.py:paper --dry-run      # build, describe, stop

Stages that are there already (demonstrations, dataset, episode store) are reused; any key of the configuration can be
overridden with --config.KEY=VALUE. The results lie in runs/TASK/NAME/: config.json, checkpoint/, metrics.jsonl,
tensorboard/, first_batch.png, rollouts/, summary.json, and report.html, the page to look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gap_vla.core.errors import UserError, command

if TYPE_CHECKING:
    from gap_vla.training.config import Experiment


@command
def main(argv: list[str] | None = None) -> int | None:
    from gap_vla.training.octo import FinetuneConfig

    return train(__doc__, FinetuneConfig, argv)


def train(doc: str | None, kind: type[Experiment], argv: list[str] | None) -> Any:
    """The command, whatever the backend; `kind` is the one whose keys its help lists."""
    from gap_vla.cli.configured import config_parser, run_configured

    parser = config_parser(doc, kind)
    how = parser.add_mutually_exclusive_group()
    for option, what in {
        "resume": "go on with this configuration's run from its last checkpoint, or begin",
        "dry-run": "build model and optimizer as shapes, print them, parameter groups and memory, and stop",
        "collect-only": "make the demonstrations, which takes the extra sim alone, and stop",
    }.items():
        how.add_argument(f"--{option}", action="store_true", help=what)
    add = parser.add_argument
    add("--run-name", default="", help="name of the run directory below runs/TASK/ (default: method, seed and hash)")
    return run_configured(_run, parser, argv)


def _run(config: Experiment, options: Any) -> None:
    from gap_vla.cli.arguments import answering
    from gap_vla.training.run import Run

    if options.collect_only and options.run_name:
        raise UserError("--run-name has no effect with --collect-only, which makes no run; leave it out")
    run = Run(config, options.run_name)
    with answering(options) as answer:
        answer["run"] = run.directory.path
        if options.dry_run:
            print(run.dry_run())
        elif options.collect_only:
            run.collect()
        else:
            answer |= run.to_the_end(options.resume)
            print(run.report(answer))
