"""Random changes of pictures, the same for all frames of a window; numpy and PIL."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may change; ranges are drawn from uniformly, once per window.

    Attributes:
        crop_scale: (least, greatest) share of the picture's area that is kept, then resized to the full size.
        crop_ratio: (least, greatest) width to height ratio of the crop, relative to the picture's own.
        brightness: at most this is added or subtracted, as a share of the full range.
        contrast: (least, greatest) factor about the picture's mean.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, options: Mapping[str, Any] | Augmentation) -> Augmentation:
        """From a dictionary of this class's attributes; unknown names are errors."""
        return options if isinstance(options, cls) else cls(**options)  # type: ignore[arg-type]

    def __call__(
        self, windows: UInt8[np.ndarray, "B W h w 3"], real: np.ndarray, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "B W h w 3"]:
        """Changed copies of the windows; frames where `real` (bool[B, W]) is False are padding and stay as they are."""
        batch, _, height, width, _ = windows.shape
        out = windows.copy()
        scale = np.sqrt(rng.uniform(*self.crop_scale, batch))
        ratio = np.sqrt(rng.uniform(*self.crop_ratio, batch))
        sides = np.minimum(np.stack([scale * ratio * width, scale / ratio * height], 1), (width, height))
        corner = rng.uniform(0, 1, (batch, 2)) * (np.array([width, height]) - sides)
        shift = np.asarray(rng.uniform(-self.brightness, self.brightness, batch)) * 255
        factor = np.asarray(rng.uniform(*self.contrast, batch))
        recolour = self.brightness > 0 or self.contrast != (1.0, 1.0)
        for b, w in zip(*np.nonzero(real)):
            box = (*corner[b], *(corner[b] + sides[b]))
            frame = Image.fromarray(windows[b, w]).resize((width, height), Image.Resampling.BILINEAR, box=box)
            if recolour:
                pixels = np.asarray(frame, np.float32)
                mean = float(pixels.mean())
                pixels = (pixels - mean) * factor[b] + mean + shift[b]
                out[b, w] = np.clip(np.round(pixels), 0, 255)
            else:
                out[b, w] = frame
        return out
