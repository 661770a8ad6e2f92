"""A residual encoder that one processor core trains in minutes: GroupNorm, four blocks, spatial softmax."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders.spatial_softmax import SpatialSoftmax

KEYPOINTS = 64


class SmallEncoder(nn.Module):
    """Stem 5 × 5 with stride 2, four residual blocks (the second with stride 2) up to four times the stem's channels,
    1 × 1 to 64 maps, spatial softmax, linear to `feature_dim`.
    """

    def __init__(self, config: SmallModelConfig, image_shape: tuple[int, int, int]):
        super().__init__()
        width = config.encoder_width
        self.stem = nn.Conv2d(image_shape[2], width, 5, stride=2, padding=2, bias=False)
        self.norm = nn.GroupNorm(8, width)
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, 1),
            ResidualBlock(width, 2 * width, 2),
            ResidualBlock(2 * width, 2 * width, 1),
            ResidualBlock(2 * width, 4 * width, 1),
        )
        self.maps = nn.Conv2d(4 * width, KEYPOINTS, 1)
        self.keypoints = SpatialSoftmax()
        self.project = nn.Linear(2 * KEYPOINTS, config.feature_dim)

    def forward(self, images: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d"]:
        x = functional.relu(self.norm(self.stem(images / 127.5 - 1)))
        return functional.relu(self.project(self.keypoints(self.maps(self.blocks(x)))))


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with GroupNorm, and a shortcut (1 × 1 where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d h2 w2"]:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.shortcut(x) + self.norm2(self.conv2(y)))
