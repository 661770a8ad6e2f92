"""Handover: a bar from one arm to the other (robosuite, two Pandas): 18 numbers of state, 14 of action.

gap-vla finetune --config finetune_configs/handover.py

Method vp_gap, from 100 demonstrations, 2,400 steps: 4 of 50 rollouts succeed (seed 0), 17 minutes
on 2 CPU cores beside other work (`python scripts/reproduce.py --table tasks --tasks handover`).
debug: the same path in a minute.
"""

from gap_vla.training.octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("handover", profile)
