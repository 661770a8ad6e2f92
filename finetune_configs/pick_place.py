"""Pick-place: bring a puck to a goal in the air (Meta-World, Sawyer).

gap-vla finetune --config finetune_configs/pick_place.py

Method vp_gap, from 100 demonstrations, 2,400 steps: 44 of 50 rollouts succeed (seed 0), 11 minutes
on 2 CPU cores beside other work (`python scripts/reproduce.py --table tasks --tasks pick_place`).
debug: the same path in a minute.
"""

from gap_vla.training.octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("pick_place", profile)
