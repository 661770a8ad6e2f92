"""Push-wall: push a puck around a wall to the goal (Meta-World, Sawyer).

gap-vla finetune --config finetune_configs/push_wall.py

Method vp_gap, from 100 demonstrations, 2,400 steps: 50 of 50 rollouts succeed (seed 0), 36 minutes
on 2 CPU cores beside other work (`python scripts/reproduce.py --table tasks --tasks push_wall`).
debug: the same path in a minute.
"""

from gap_vla.training.octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("push_wall", profile)
