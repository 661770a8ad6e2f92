"""Assembly: put a ring on a peg (Meta-World, Sawyer), Octo with one camera and proprioception.

    python scripts/finetune.py --config finetune_configs/assembly.py             # VP+GAP
    python scripts/compare.py --config finetune_configs/assembly.py --seeds 0,1,2
"""

from gap_vla.config import experiment

CHANGES = dict(
    demos=dict(episodes=100, image_size=64, action_noise=0.15),
    model=dict(window_size=1, action_horizon=8, token_embedding_size=128, num_layers=4, mlp_dim=256),
    optimizer=dict(learning_rate=5e-4, warmup_steps=100),
    train=dict(steps=1500, batch_size=64),
    eval=dict(episodes=50, execute=4),
)

PROFILES = {
    "default": {},
    "debug": dict(
        demos=dict(episodes=4),
        model=dict(token_embedding_size=64, num_layers=1, mlp_dim=64, stem_features=(32, 32, 32)),
        train=dict(steps=6, batch_size=8, log_every=2, validate_every=3, save_every=3),
        eval=dict(episodes=2, videos=1),
    ),
}


def get_config(profile: str = "default"):
    return experiment("assembly", CHANGES, PROFILES, profile)
