"""Threading: a needle through the ring of a tripod (robosuite, Panda), Octo with two cameras and proprioception.

gap-vla finetune --config finetune_configs/threading.py            # VP, its branch slowed
gap-vla finetune --config finetune_configs/threading.py --config.method=vp_gap

default: 2 CPU cores, 8 to 18 minutes with 20 rollouts, of which 16 succeed (vp_slow, seed 0).
Success of 100 rollouts: VP+GAP 93, 91 and 87 (seeds 0, 1, 2), VP 95 and V 82 (seed 0);
`python scripts/reproduce.py --table octo --tasks threading`.
VP+GAP from 100 demonstrations, 2,400 steps: 45 of 50 rollouts succeed (seed 0);
`python scripts/reproduce.py --table tasks --tasks threading`.
one_camera: 3,000 steps without the wrist camera and without augmentation. debug: the same path in a minute.
paper: octo-small-1.5 and the paper's numbers, for a GPU; look with --dry-run.
"""

from gap_vla.training.octo import DEBUG, ONE_CAMERA, small_octo

PROFILES = {
    "default": {},
    "one_camera": {**ONE_CAMERA, "train": dict(steps=3000)},
    "debug": DEBUG,
    "paper": dict(
        method="vp_gap",
        demos=dict(episodes=500, image_size=256, cameras=("primary",), action_noise=0.0),
        data=dict(augment=dict(cameras=("primary",), primary=dict(crop_ratio=(0.9, 1.1), brightness=0.1, hue=0.05))),
        model=dict(pretrained="hf://rail-berkeley/octo-small-1.5", window_size=2, action_horizon=4, head="diffusion"),
        optimizer=dict(learning_rate=3e-4, warmup_steps=2000, frozen_keys=("*hf_model*",)),
        train=dict(steps=50_000, batch_size=256, log_every=100, validate_every=5000, save_every=5000),
        eval=dict(episodes=100, execute=4),
    ),
}


def get_config(profile: str = "default"):
    return small_octo("threading", profile, PROFILES)
