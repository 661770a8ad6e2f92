"""Small vision-proprioception policies in torch: encoders, fusions, heads and training methods by name.

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.methods import build_policy

policy = build_policy(SmallModelConfig(), "vp", image_shape=(64, 64, 3), proprio_dim=9, action_dim=7)
chunk = policy(batch)
"""
