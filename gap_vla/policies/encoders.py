"""Encoders of one branch: pictures or proprioception to features.

An image encoder is `Encoder(config, image_shape)`, float[N, 3, h, w] of 0 to 255 to float[N, feature_dim].
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from gap_vla.policies.config import SmallModelConfig

KEYPOINTS = 64


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


def torch_file(path: Path) -> Any:
    """What `torch.save` wrote: tensors on the CPU and plain values.

    Raises ValueError: a part of its zip is packed, which torch never does (it may be one of gigabytes), or damaged; or
    it holds something else, which torch's own message says how to execute. Others of torch: it is no file of its.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            if packed := [part.filename for part in parts.infolist() if part.compress_type != zipfile.ZIP_STORED]:
                raise ValueError(f"{packed[0]} is packed, as torch writes none")
            if part := parts.testzip():  # torch does not compare the checksums
                raise ValueError(f"the checksum of {part} differs")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, LookupError):  # the latter of what is no pickle
        what = "it holds something else than tensors and plain values, which is not read, or was not written by torch"
        raise ValueError(what) from None


def odd_weights(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """What of these tensors cannot be the weights in whose place they would be, the first of it; empty: nothing."""
    for name, tensor in found.items():
        wanted = expected[name].dtype
        if tensor.is_floating_point() != wanted.is_floating_point:
            return f"{name} is {tensor.dtype}, the policy's {wanted}"
        if tensor.layout != torch.strided or tensor.is_meta:
            return f"{name} is no plain tensor"
        values = tensor.to(wanted)
        if not torch.isfinite(values).all():
            return f"{name} holds NaN or infinity"
        if name.endswith("running_var") and (values < 0).any():
            return f"{name} holds a variance below 0"
    return ""


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
