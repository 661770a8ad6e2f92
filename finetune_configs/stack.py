"""Stack: a red cube on a green one (robosuite, Panda).

python scripts/finetune.py --config finetune_configs/stack.py            # or --config.method=v, vp

default: 2 CPU cores, minutes. debug: the same path in a minute.
"""

from gap_vla.training.small_octo import small_octo


def get_config(profile: str = "default"):
    return small_octo("stack", profile)
