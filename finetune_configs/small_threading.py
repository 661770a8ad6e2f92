"""Threading with a small torch policy: a hundred disturbed demonstrations.

gap-vla train-small --config finetune_configs/small_threading.py                         # vp_slow
gap-vla train-small --config finetune_configs/small_threading.py --config.method=vp_gap  # or v, vp, …

cpu (default): one core, minutes; success of v, vp and vp_gap is in docs/RESULTS.md.
paper: the paper's recipe, for a GPU (not trained yet).
eyes: a pretrained, frozen image encoder (docs/POLICIES.md). debug: the same path, tiny.
"""

from gap_vla.training.config import experiment, profile_of
from gap_vla.training.torch import DEBUG, EYES, PAPER, SmallConfig

CHANGES = dict(
    demos=dict(episodes=100, image_size=64, action_noise=0.1),
    data=dict(augment=dict(cameras=())),
    train=dict(steps=3000),
    eval=dict(episodes=100, variants=("default", "positions_wide")),
)

PROFILES = {
    "cpu": {},
    "eyes": EYES,
    "paper": {**PAPER, "demos": dict(episodes=500, image_size=84, action_noise=0.0)},
    "debug": {**DEBUG, "demos": dict(episodes=3), "eval": dict(episodes=1, videos=1, variants=("default",))},
}


def get_config(profile: str = "cpu"):
    return experiment(SmallConfig, "threading", CHANGES, profile_of(PROFILES, profile))
