"""Train a small torch policy with any of the methods, roll it out, and say how often it succeeds.

    gap-vla train-small --config finetune_configs/small_assembly.py --config.method=gap
    gap-vla train-small --config finetune_configs/small_threading.py --config.method=concat
    gap-vla train-small --config finetune_configs/small_assembly.py:debug      # the same path in seconds

Methods: docs/POLICIES.md. Stages that are there already (demonstrations, dataset, episode store) are reused and shared
with `gap-vla finetune`; any key of the configuration can be overridden with --config.KEY=VALUE. The results lie in
runs/TASK/small-METHOD-…/: config.json, checkpoint/, metrics.jsonl, tensorboard/, first_batch.png, rollouts/VARIANT/,
summary.json.
"""

from __future__ import annotations

from typing import Any

from gap_vla.core.errors import command


@command
def main(argv: list[str] | None = None) -> int | None:
    from gap_vla.cli.configured import config_parser, run_configured
    from gap_vla.policies import SmallConfig

    parser = config_parser(__doc__, SmallConfig)
    add = parser.add_argument
    add("--resume", action="store_true", help="go on with this configuration's run from its last saved state, or begin")
    add("--run-name", default="", help="name of the run directory below runs/TASK/ (default: method, seed and hash)")
    return run_configured(_run, parser, argv)


def _run(config: Any, options: Any) -> None:
    from gap_vla.training.small import report, run_directory_of, train_small

    summary = train_small(config, options.run_name, options.resume)
    print(report(summary, run_directory_of(config, options.run_name)))
