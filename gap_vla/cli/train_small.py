"""Train a small torch policy with any of the methods, roll it out, and say how often it succeeds.

    gap-vla train-small --config finetune_configs/small_assembly.py --config.method=gap
    gap-vla train-small --config finetune_configs/small_threading.py --config.method=concat
    gap-vla train-small --config finetune_configs/small_assembly.py:debug      # the same path in less than a minute

The same command as `gap-vla finetune`; its help lists the keys of small policies. Methods: docs/POLICIES.md. The
results lie in runs/TASK/small-METHOD-…/.
"""

from __future__ import annotations

from gap_vla.cli.finetune import train
from gap_vla.core.errors import command


@command
def main(argv: list[str] | None = None) -> None:
    from gap_vla.training.torch import SmallConfig

    train(__doc__, SmallConfig, argv)
