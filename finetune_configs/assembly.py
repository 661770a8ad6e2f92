"""Assembly: put a ring on a peg (Meta-World, Sawyer), Octo with two cameras and proprioception.

gap-vla finetune --config finetune_configs/assembly.py             # VP, its branch slowed
gap-vla compare --config finetune_configs/assembly.py:one_camera --seeds 0,1,2

Method vp_gap, from 40 demonstrations, 2,400 steps: 50 of 50 rollouts succeed (seed 0), 8 minutes
on 2 CPU cores beside other work (`python scripts/reproduce.py --table tasks --tasks assembly`).
one_camera: 1,000 steps without the wrist camera and without augmentation.
gaussian_rho: the same with GAP and wide phases. debug: the same path in a minute.
"""

from gap_vla.training.octo import DEBUG, ONE_CAMERA, small_octo

RECORDED = {**ONE_CAMERA, "train": dict(steps=1000)}

PROFILES = {
    "default": {},
    "one_camera": RECORDED,
    "gaussian_rho": {**RECORDED, "method": "vp_gap", "phases": dict(method="gaussian")},  # ρ as wide bumps (σ 4 steps)
    "debug": {**DEBUG, "demos": dict(episodes=4), "eval": dict(episodes=2, videos=1)},
}


def get_config(profile: str = "default"):
    return small_octo("assembly", profile, PROFILES, demos=dict(episodes=40, action_noise=0.0), eval=dict(episodes=100))
