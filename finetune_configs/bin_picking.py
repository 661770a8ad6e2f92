"""Bin-picking: move a cube from one bin into the other (Meta-World, Sawyer).

python scripts/finetune.py --config finetune_configs/bin_picking.py            # or --config.method=v, vp

default: 2 CPU cores, minutes. debug: the same path in a minute.
"""

from gap_vla.training.small_octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("bin_picking", profile)
