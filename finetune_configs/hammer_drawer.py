"""Hammer and drawer: open a drawer, put a hammer in, close it (robosuite, Panda); the longest task.

gap-vla finetune --config finetune_configs/hammer_drawer.py

Method vp_gap, from 100 demonstrations, 4,000 steps: 50 of 50 rollouts succeed (seed 0), 14 minutes
on 2 CPU cores beside other work (`python scripts/reproduce.py --table tasks --tasks hammer_drawer`).
debug: the same path in a minute.
"""

from gap_vla.training.octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("hammer_drawer", profile, train=dict(steps=4000))
