"""Fine-tune Octo with GAP: demonstrations, phases, RLDS, training, rollouts, summary.

    gap-vla finetune --config finetune_configs/threading.py                      # everything, default profile
    gap-vla finetune --config finetune_configs/threading.py:debug                # the same path in a minute
    gap-vla finetune --config finetune_configs/threading.py --config.method=vp   # v | vp | vp_gap
    gap-vla finetune --config finetune_configs/threading.py:paper --dry-run      # build, describe, stop
    gap-vla finetune --config FILE --config.task=bowl --config.demos.path=DATA   # your demonstrations, in any format

Stages that are there already (demonstrations, dataset, episode store) are reused. The results lie in runs/TASK/NAME/:
config.json, checkpoint/, metrics.jsonl, tensorboard/, first_batch.png, rollouts/, summary.json, and report.html, the
page to look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gap_vla.core.errors import command

if TYPE_CHECKING:
    from gap_vla.training.config import Experiment


@command
def main(argv: list[str] | None = None) -> None:
    from gap_vla.training.octo import FinetuneConfig

    train(__doc__, FinetuneConfig, argv)


def train(doc: str | None, kind: type[Experiment], argv: list[str] | None) -> None:
    """The command, whatever the backend; `kind` is the one whose keys its help lists without a file."""
    from gap_vla.cli.arguments import answering, command_parser
    from gap_vla.cli.configured import parse_configured
    from gap_vla.training.run import TrainingRun

    parser = command_parser(doc, answers=True)
    how = parser.add_mutually_exclusive_group().add_argument
    how("--resume", action="store_true", help="go on with this configuration's run from its last state, or begin")
    how("--dry-run", action="store_true", help="say what would be read and trained, and stop")
    how("--collect-only", action="store_true", help="make the demonstrations, and stop")
    parser.add_argument("--run-name", default="", help="of the folder in runs/TASK/ (default: method, seed and hash)")
    config, options = parse_configured(parser, kind, argv)
    run = TrainingRun(config, options.run_name)
    with answering(options) as answer:
        answer["run"] = run.directory.path
        if options.dry_run:
            print(run.dry_run())
        elif options.collect_only:
            run.stages.collect()
        else:
            answer |= run.to_the_end(options.resume)
            print(run.report(answer))
