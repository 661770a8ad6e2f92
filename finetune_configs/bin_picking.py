"""Bin-picking: move a cube from one bin into the other (Meta-World, Sawyer).

gap-vla finetune --config finetune_configs/bin_picking.py

Method vp_gap, from 100 demonstrations, 2,400 steps: 49 of 50 rollouts succeed (seed 0), 15 minutes
on 2 CPU cores beside other work (`python scripts/reproduce.py --table tasks --tasks bin_picking`).
debug: the same path in a minute.
"""

from gap_vla.training.octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("bin_picking", profile)
