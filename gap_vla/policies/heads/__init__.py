"""Action heads: `Head(config, input_dim, action_dim)` with

loss(feature float[B, D], action float[B, H, A], generator) -> float[B, H], one loss per predicted step
predict(feature float[B, D], generator) -> float[B, H, A]
"""
