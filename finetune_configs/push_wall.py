"""Push-wall: push a puck around a wall to the goal (Meta-World, Sawyer).

python scripts/finetune.py --config finetune_configs/push_wall.py            # or --config.method=v, vp

default: 2 CPU cores, minutes. debug: the same path in a minute.
"""

from gap_vla.training.small_octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("push_wall", profile)
