"""Stack: a red cube on a green one (robosuite, Panda).

gap-vla finetune --config finetune_configs/stack.py

Method vp_gap, from 100 demonstrations, 2,400 steps: 29 of 50 rollouts succeed (seed 0), 12 minutes
on 2 CPU cores beside other work (`python scripts/reproduce.py --table tasks --tasks stack`).
debug: the same path in a minute.
"""

from gap_vla.training.octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("stack", profile)
