"""How image and proprioceptive features become one: `Fusion(config, vision_dim, proprio_dim)` with `output_dim`."""
