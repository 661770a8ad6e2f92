"""Assembly with a small torch policy: few, clean demonstrations and five steps of proprioceptive history.

python scripts/train_small.py --config finetune_configs/small_assembly.py                          # gap
python scripts/train_small.py --config finetune_configs/small_assembly.py --config.method=vision   # or concat, …

cpu (default): one core, minutes; success is in docs/RESULTS.md.
paper: the paper's recipe, for a GPU (one policy was trained with it: docs/POLICIES.md).
debug: the same path in less than a minute.
"""

from gap_vla.training.config import experiment
from gap_vla.training.torch import SmallConfig

CHANGES = dict(
    demos=dict(episodes=40, image_size=64, action_noise=0.0),
    data=dict(augment=dict(cameras=())),
    eval=dict(episodes=100, variants=("default", "positions_wide")),
)

PROFILES = {
    "cpu": {},
    "paper": dict(
        demos=dict(episodes=100, image_size=84, action_noise=0.0),
        model=dict(encoder="resnet18", feature_dim=512, image_history=5, proprio_history=5, temporal="transformer"),
        optimizer=dict(learning_rate=3e-4, warmup_steps=0, weight_decay=1e-4),
        train=dict(epochs=100, batch_size=128, device="cuda", threads=4, log_every=100, validate_every=1000),
        eval=dict(episodes=100, workers=4),
    ),
    "debug": dict(
        demos=dict(episodes=4),
        model=dict(encoder_width=8, feature_dim=32, head_dim=32),
        train=dict(steps=12, batch_size=8, log_every=4, validate_every=6, save_every=6),
        eval=dict(episodes=2, videos=1, variants=("default",)),
    ),
}


def get_config(profile: str = "cpu"):
    return experiment(SmallConfig, "assembly", [CHANGES], PROFILES, profile)
