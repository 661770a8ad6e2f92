"""Image encoders: `Encoder(config, image_shape)`, float[N, 3, h, w] of 0 to 255 to float[N, feature_dim]."""
