"""Assembly: put a ring on a peg (Meta-World, Sawyer), Octo with one camera and proprioception.

python scripts/finetune.py --config finetune_configs/assembly.py             # VP+GAP
python scripts/compare.py --config finetune_configs/assembly.py --seeds 0,1,2

default: 2 CPU cores, minutes; success is in docs/RESULTS.md.
gaussian_rho: the same with wide phases. debug: the same path in a minute.
"""

from gap_vla.config import experiment

CHANGES = dict(
    demos=dict(episodes=40, image_size=64, action_noise=0.0),
    model=dict(window_size=1, action_horizon=8, stem_features=(32, 64, 128, 128)),
    optimizer=dict(learning_rate=5e-4, warmup_steps=100),
    train=dict(steps=1000, batch_size=64),
    eval=dict(episodes=100, execute=4),
)

PROFILES = {
    "default": {},
    "gaussian_rho": dict(phases=dict(method="gaussian")),  # ρ as wide bumps (σ 4 steps)
    "debug": dict(
        demos=dict(episodes=4),
        model=dict(token_embedding_size=64, num_layers=1, mlp_dim=64, stem_features=(32, 32, 32)),
        train=dict(steps=6, batch_size=8, log_every=2, validate_every=3, save_every=3),
        eval=dict(episodes=2, videos=1),
    ),
}


def get_config(profile: str = "default"):
    return experiment("assembly", CHANGES, PROFILES, profile)
