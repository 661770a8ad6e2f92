"""ResNet-18 (He et al., 2016) with torchvision's parameter names, spatial softmax and a linear layer on top."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from gap_vla.core.foreign import misfits, one_line
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders import KEYPOINTS, SpatialSoftmax, odd_weights, torch_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride of layer1 to layer4, two blocks each


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
        ConfigError: no such file, names missing or unknown, or a tensor of another shape (all are listed).
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"model.encoder_weights is {str(path)!r}, which is no file")
    from safetensors.torch import load_file

    try:
        found = dict(load_file(path) if path.suffix == ".safetensors" else torch_file(path))
    except Exception as error:  # either library has classes of its own
        raise ConfigError(f"{path}: not readable ({one_line(error, 120)}); download torchvision's") from None
    found = {name: value for name, value in found.items() if not str(name).startswith("fc.")}
    if odd := [name for name, value in found.items() if not isinstance(value, torch.Tensor)]:
        raise ConfigError(f"{path} holds {one_line(odd[0], 60)!r}, which is no tensor; give the weights alone, by name")
    wanted = trunk.state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}  # old files lack them, some are floats
    needed = {name: value.shape for name, value in wanted.items() if name not in counters - {*found}}
    if problems := misfits({name: value.shape for name, value in found.items()}, needed, "should be"):
        raise ConfigError(f"{path} does not hold a ResNet-18 with torchvision's names: {problems}")
    if wrong := odd_weights({name: value for name, value in found.items() if name not in counters}, wanted):
        raise ConfigError(f"{path}: {wrong}; download them again")
    trunk.load_state_dict(found, strict=False)
