"""Handover: a bar from one arm to the other (robosuite, two Pandas): 18 numbers of state, 14 of action.

python scripts/finetune.py --config finetune_configs/handover.py            # or --config.method=v, vp

default: 2 CPU cores, minutes. debug: the same path in a minute.
"""

from gap_vla.training.small_octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("handover", profile)
