"""Random changes of pictures, the same for all frames of a window: upstream Octo's operations, in its order.

Unlike upstream's, the changes of a window's cameras come of the same draws.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.core.config import STRICT, Camera

DRAWS = 8
"""Random numbers that one window takes."""

Share = Annotated[float, Field(ge=0.01, le=1)]
Ratio = Annotated[float, Field(ge=0.1, le=10)]
Factor = Annotated[float, Field(ge=0, le=10)]


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """What may change, drawn once per window; the operations are those of upstream's `augment_image` (dlimp) in the
    order of its configs: crop, brightness, contrast, saturation, hue, each cut to [0, 1]."""

    crop_scale: tuple[Share, Share] = (1.0, 1.0)
    """(least, greatest) share of the picture's area that is kept, then resized to the full size."""
    crop_ratio: tuple[Ratio, Ratio] = (1.0, 1.0)
    """(least, greatest) width to height of the crop, relative to the picture's; drawn evenly in its logarithm. A crop
    that is wider or taller than the picture is cut to it, and keeps less than `crop_scale` says."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """At most this is added or subtracted, as a share of the full range."""
    contrast: tuple[Factor, Factor] = (1.0, 1.0)
    """(least, greatest) factor about each channel's mean."""
    saturation: tuple[Factor, Factor] = (1.0, 1.0)
    """(least, greatest) factor on HSV saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """At most this is added to or subtracted from HSV hue, as a share of the circle."""

    def __call__(
        self,
        windows: UInt8[np.ndarray, "B W h w 3"],
        real: Bool[np.ndarray, "B W"],
        draws: Float[np.ndarray, "B n"],
    ) -> UInt8[np.ndarray, "B W h w 3"]:
        """Changed copies of the windows.

        Args:
            windows: pictures.
            real: False for padding, which stays as it is.
            draws: `DRAWS` numbers in [0, 1) per window.
        """
        from gap_vla.rlds.pixels import change_frames

        out = np.array(windows)
        change_frames(out, np.ascontiguousarray(real), self.parameters(np.asarray(draws)).astype(np.float32))
        return out

    def parameters(self, draws: Float[np.ndarray, "B n"]) -> Float[np.ndarray, "B 8"]:
        """Per window: crop top, left, height, width (shares of the picture), brightness, contrast, saturation, hue."""
        scale = _between(draws[:, 0], *self.crop_scale)
        ratio = np.exp(_between(draws[:, 1], *np.log(self.crop_ratio)))
        height, width = np.minimum(np.sqrt(scale / ratio), 1), np.minimum(np.sqrt(scale * ratio), 1)
        columns = [
            draws[:, 2] * (1 - height),
            draws[:, 3] * (1 - width),
            height,
            width,
            _between(draws[:, 4], -self.brightness, self.brightness),
            _between(draws[:, 5], *self.contrast),
            _between(draws[:, 6], *self.saturation),
            _between(draws[:, 7], -self.hue, self.hue),
        ]
        return np.stack(columns, axis=1)


def _between(draw: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + draw * (high - low)


UPSTREAM = {
    "primary": Augmentation((0.8, 1.0), (0.9, 1.1), 0.1, (0.9, 1.1), (0.9, 1.1), 0.05),
    "wrist": Augmentation((1.0, 1.0), (1.0, 1.0), 0.1, (0.9, 1.1), (0.9, 1.1), 0.05),
}
"""The numbers of upstream's fine-tuning configuration for each camera: the wrist's pictures are not cropped."""


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    """Random changes of training pictures, drawn once for all frames and cameras of a window."""

    cameras: tuple[Camera, ...] = ()
    """Cameras whose pictures are changed; empty: none."""
    primary: Augmentation = UPSTREAM["primary"]
    """Changes of the primary camera's pictures."""
    wrist: Augmentation = UPSTREAM["wrist"]
    """Changes of the wrist camera's pictures."""

    @property
    def of_images(self) -> dict[str, Augmentation]:
        """`image_<camera>` to its changes, for the cameras that are changed."""
        return {f"image_{camera}": getattr(self, camera) for camera in self.cameras}
