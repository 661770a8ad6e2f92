"""Pick-place: bring a puck to a goal in the air (Meta-World, Sawyer).

python scripts/finetune.py --config finetune_configs/pick_place.py            # or --config.method=v, vp

default: 2 CPU cores, minutes. debug: the same path in a minute.
"""

from gap_vla.training.small_octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("pick_place", profile)
