"""Train a small torch policy with any of the methods, roll it out, and say how often it succeeds.

    gap-vla train-small --config finetune_configs/small_assembly.py --config.method=gap
    gap-vla train-small --config finetune_configs/small_threading.py --config.method=concat
    gap-vla train-small --config finetune_configs/small_assembly.py:debug      # the same path in less than a minute

The same command as `gap-vla finetune`; its help lists the keys of small policies. Methods: docs/POLICIES.md. Stages
that are there already (demonstrations, dataset, episode store) are reused; any key of the configuration can be
overridden with --config.KEY=VALUE. The results lie in runs/TASK/small-METHOD-…/: config.json, checkpoint/,
metrics.jsonl, tensorboard/, first_batch.png, rollouts/VARIANT/, summary.json, report.html.
"""

from __future__ import annotations

from gap_vla.cli.finetune import train
from gap_vla.core.errors import command


@command
def main(argv: list[str] | None = None) -> int | None:
    from gap_vla.training.torch import SmallConfig

    return train(__doc__, SmallConfig, argv)
