"""Threading: a needle through the ring of a tripod (robosuite, Panda), Octo with one camera and proprioception.

python scripts/finetune.py --config finetune_configs/threading.py            # VP+GAP
python scripts/finetune.py --config finetune_configs/threading.py --config.method=vp

default: 2 CPU cores, minutes; success is in docs/RESULTS.md.
debug: the same path in a minute. paper: octo-small-1.5 and the paper's numbers, for a GPU; look with --dry_run.
"""

from gap_vla.config import experiment

CHANGES = dict(
    demos=dict(episodes=100, image_size=64, action_noise=0.1),
    model=dict(window_size=1, action_horizon=8, stem_features=(32, 64, 128, 128)),
    optimizer=dict(learning_rate=5e-4, warmup_steps=100),
    train=dict(steps=3000, batch_size=64),
    eval=dict(episodes=20, execute=4),
)

PROFILES = {
    "default": {},
    "debug": dict(
        demos=dict(episodes=3),
        model=dict(token_embedding_size=64, num_layers=1, mlp_dim=64, stem_features=(32, 32, 32)),
        train=dict(steps=6, batch_size=8, log_every=2, validate_every=3, save_every=3),
        eval=dict(episodes=1, videos=1),
    ),
    "paper": dict(
        demos=dict(episodes=500, image_size=256, action_noise=0.0),
        model=dict(pretrained="hf://rail-berkeley/octo-small-1.5", window_size=2, action_horizon=4, head="diffusion"),
        optimizer=dict(learning_rate=3e-4, warmup_steps=2000, frozen_keys=("*hf_model*",)),
        train=dict(steps=50_000, batch_size=256, log_every=100, validate_every=5000, save_every=5000),
        eval=dict(episodes=100),
    ),
}


def get_config(profile: str = "default"):
    return experiment("threading", CHANGES, PROFILES, profile)
