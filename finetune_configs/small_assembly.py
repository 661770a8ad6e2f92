"""Assembly with a small torch policy: few, clean demonstrations and five steps of proprioceptive history.

gap-vla train-small --config finetune_configs/small_assembly.py                          # vp_slow
gap-vla train-small --config finetune_configs/small_assembly.py --config.method=vp_gap   # or v, vp, …

cpu (default): one core, minutes; success of v, vp and vp_gap is in docs/RESULTS.md.
paper: the paper's recipe, for a GPU (one policy was trained with it: docs/POLICIES.md).
eyes: a pretrained, frozen image encoder (docs/POLICIES.md). debug: the same path, tiny.
"""

from gap_vla.training.config import experiment, profile_of
from gap_vla.training.torch import DEBUG, EYES, PAPER, SmallConfig

CHANGES = dict(
    demos=dict(episodes=40, image_size=64, action_noise=0.0),
    data=dict(augment=dict(cameras=())),
    eval=dict(episodes=100, variants=("default", "positions_wide")),
)

PROFILES = {
    "cpu": {},
    "eyes": EYES,
    "paper": {**PAPER, "demos": dict(episodes=100, image_size=84, action_noise=0.0)},
    "debug": {**DEBUG, "demos": dict(episodes=4), "eval": dict(episodes=2, videos=1, variants=("default",))},
}


def get_config(profile: str = "cpu"):
    return experiment(SmallConfig, "assembly", CHANGES, profile_of(PROFILES, profile))
