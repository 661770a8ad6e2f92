"""Small vision-proprioception policies in torch: encoders, fusions, heads and training methods by name.

    policy = build_policy(SmallModelConfig(), "concat", image_shape=(64, 64, 3), proprio_dim=9, action_dim=7)
    chunk = policy(batch)

Importing this loads no torch.
"""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "registry": "METHODS",
        "config": "SmallModelConfig",
        "policy": "SmallPolicy",
        "methods": "build_policy method_of",
    },
)
