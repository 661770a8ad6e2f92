"""Random changes of pictures, the same for all frames of a window: upstream Octo's operations, in its order.

Unlike upstream's, the changes of a window's cameras come of the same draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gap_vla.core.typed_config import CAMERAS, Bounds, ConfigError, Items, check_numbers, choose

DRAWS = 8
"""Random numbers that one window takes."""

PAIR = Items(2, 2)  # least and greatest
FACTOR = Bounds(0, 10, "1 changes nothing")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may change, drawn once per window; the operations are those of upstream's `augment_image` (dlimp) in the
    order of its configs: crop, brightness, contrast, saturation, hue, each cut to [0, 1].

    Attributes:
        crop_scale: (least, greatest) share of the picture's area that is kept, then resized to the full size.
        crop_ratio: (least, greatest) width to height ratio of the crop, relative to the picture's own; drawn evenly
            in its logarithm. A crop that is then wider or taller than the picture is cut to it, and keeps less than
            `crop_scale` says.
        brightness: at most this is added or subtracted, as a share of the full range.
        contrast: (least, greatest) factor about each channel's mean.
        saturation: (least, greatest) factor on HSV saturation.
        hue: at most this is added to or subtracted from HSV hue, as a share of the circle.
    """

    crop_scale: Annotated[tuple[Annotated[float, Bounds(0.01, 1, "share of the area")], ...], PAIR] = (1.0, 1.0)
    crop_ratio: Annotated[tuple[Annotated[float, Bounds(0.1, 10, "width to height")], ...], PAIR] = (1.0, 1.0)
    brightness: Annotated[float, Bounds(0, 1, "share of the full range")] = 0.0
    contrast: Annotated[tuple[Annotated[float, FACTOR], ...], PAIR] = (1.0, 1.0)
    saturation: Annotated[tuple[Annotated[float, FACTOR], ...], PAIR] = (1.0, 1.0)
    hue: Annotated[float, Bounds(0, 0.5, "share of the circle, in either direction")] = 0.0

    def check(self, where: str = "augmentation") -> None:
        """Raises ConfigError for impossible numbers, which are called `where.NAME`."""
        check_numbers(self, where)
        for name in ("crop_scale", "crop_ratio", "contrast", "saturation"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ConfigError(f"{where}.{name} is {(least, greatest)}; the smaller one comes first")

    @classmethod
    def of(cls, options: Mapping[str, Any] | Augmentation) -> Augmentation:
        """From a dictionary of this class's attributes; raises ConfigError for unknown names and impossible numbers."""
        if isinstance(options, cls):
            made = options
        else:
            known = [field.name for field in dataclasses.fields(cls)]
            for name in options:  # type: ignore[union-attr]
                choose(name, known, "augmentation")
            made = cls(**options)  # type: ignore[arg-type]
        made.check()
        return made

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

        Raises:
            ConfigError: arrays of other kinds or shapes, or this has impossible numbers.
        """
        from gap_vla.rlds.pixels import change_frames

        self.check()
        out, real, draws = np.array(windows), np.asarray(real), np.asarray(draws)
        if out.dtype != np.uint8 or out.ndim != 5 or out.shape[-1] != 3:
            raise ConfigError(f"windows are {out.dtype}{[*out.shape]}; give pictures as uint8[B, W, h, w, 3]")
        if real.dtype != np.bool_ or real.shape != out.shape[:2]:
            raise ConfigError(f"real is {real.dtype}{[*real.shape]}; give bool{[*out.shape[:2]]}, one for each picture")
        if draws.shape != (len(out), DRAWS) or not ((draws >= 0) & (draws < 1)).all():
            raise ConfigError(f"draws are {[*draws.shape]}; give [{len(out)}, {DRAWS}], numbers from 0 to below 1")
        change_frames(out, np.ascontiguousarray(real), self.parameters(draws).astype(np.float32))
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


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training pictures, drawn once for all frames and cameras of a window."""

    # whose pictures are changed, each as below; empty: none are
    cameras: Annotated[tuple[str, ...], Items(0, 2)] = ()
    primary: Augmentation = UPSTREAM["primary"]
    wrist: Augmentation = UPSTREAM["wrist"]

    def __post_init__(self) -> None:
        check_numbers(self, "data.augment")
        for camera in self.cameras:
            choose(camera, CAMERAS, "data.augment.cameras")
        for camera in CAMERAS:
            getattr(self, camera).check(f"data.augment.{camera}")

    @property
    def of_images(self) -> dict[str, Augmentation]:
        """`image_<camera>` to its changes, for the cameras that are changed."""
        return {f"image_{camera}": getattr(self, camera) for camera in self.cameras}
