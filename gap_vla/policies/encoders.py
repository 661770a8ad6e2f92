"""Encoders of one branch: pictures or proprioception to features.

An image encoder is `Encoder(config, image_shape)`, float[N, 3, h, w] of 0 to 255 to float[N, feature_dim].
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from gap_vla.core.errors import ConfigError
from gap_vla.policies.config import SmallModelConfig

KEYPOINTS = 64
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride of layer1 to layer4, two blocks each


class SpatialSoftmax(nn.Module):
    """The expected image position of every channel (Finn et al., 2016): float[N, C, h, w] to float[N, 2 C], with x and
    y of a channel in [-1, 1], side by side.
    """

    def forward(self, maps: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d"]:
        _, _, height, width = maps.shape
        attention = maps.float().flatten(2).softmax(-1)
        y, x = (torch.linspace(-1, 1, size, dtype=torch.float32, device=maps.device) for size in (height, width))
        y, x = y.repeat_interleave(width), x.repeat(height)
        return (attention @ torch.stack([x, y], 1)).flatten(1)


class SmallEncoder(nn.Module):
    """A residual encoder that one processor core trains in minutes.

    Stem 5 × 5 with stride 2, four residual blocks (the second with stride 2) up to four times the stem's channels,
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


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with batch normalisation around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d h2 w2"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + shortcut)


class Trunk(nn.Module):
    """torchvision's `resnet18` without its classifier `fc`: the same names, shapes and order of parameters."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, (outputs, stride) in enumerate(STAGES, 1):
            stage = nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
            self.add_module(f"layer{number}", stage)
            inputs = outputs

    def forward(self, x: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n 512 h2 w2"]:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for number in range(1, len(STAGES) + 1):
            x = getattr(self, f"layer{number}")(x)
        return x


class ResNet18(nn.Module):
    """The paper's image encoder. Images are normalised with ImageNet's mean and standard deviation."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: SmallModelConfig, image_shape: tuple[int, int, int]):
        super().__init__()
        self.trunk = Trunk(image_shape[2])
        self.maps = nn.Conv2d(STAGES[-1][0], KEYPOINTS, 1)
        self.keypoints = SpatialSoftmax()
        self.project = nn.Linear(2 * KEYPOINTS, config.feature_dim)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255, persistent=False)
        if config.encoder_weights:
            load_imagenet(self.trunk, config.encoder_weights)

    def forward(self, images: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d"]:
        maps = self.maps(self.trunk((images - self.mean) / self.std))
        return functional.relu(self.project(self.keypoints(maps)))


def load_imagenet(trunk: Trunk, path: str | Path) -> None:
    """Loads weights with torchvision's names (`resnet18-*.pth`, or .safetensors) into the trunk; `fc.*` is left out.

    Raises:
        ConfigError: names missing or unknown, or a tensor of another shape.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True)
    found = {name: value for name, value in found.items() if not name.startswith("fc.")}
    counters = {n: v for n, v in trunk.state_dict().items() if n.endswith("num_batches_tracked")}  # old files lack them
    try:
        trunk.load_state_dict({**counters, **found})
    except RuntimeError as error:
        raise ConfigError(f"{path} does not hold a ResNet-18 with torchvision's names: {error}") from None


def mlp(inputs: int, hidden: int, layers: int, outputs: int | None = None) -> nn.Sequential:
    """`layers` linear layers of `hidden` units, each followed by ReLU; with `outputs`, one more linear layer."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inputs, hidden), nn.ReLU()]
        inputs = hidden
    if outputs is not None:
        parts.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*parts)


class ProprioEncoder(nn.Module):
    """What GAP adjusts (M8): an MLP on normalised proprioception, the whole history at once or every step by itself.

    Args:
        proprio_dim: width of one step.
        history: steps in the input.
        hidden: units of each layer and of the output.
        layers: number of layers, each followed by ReLU.
        stepwise: True gives one feature per step, False a single one of the stacked history.
    """

    def __init__(self, proprio_dim: int, history: int, hidden: int, layers: int, stepwise: bool):
        super().__init__()
        self.stepwise = stepwise
        self.layers = mlp(proprio_dim if stepwise else proprio_dim * history, hidden, layers)

    def forward(self, proprio: Float[torch.Tensor, "b w p"]) -> Float[torch.Tensor, "b w2 d"]:
        return self.layers(proprio if self.stepwise else proprio.flatten(1)[:, None])
