"""The small policy: encoders, fusion, temporal model and head, put together by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from gap_vla.core.errors import ConfigError
from gap_vla.policies import registry
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders import ProprioEncoder
from gap_vla.policies.heads import Generators

Batch = Mapping[str, Any]
"""Tensors of one training step. B batch, I and P frames of images and proprioception, H actions:

image_<camera> uint8[B, I, h, w, 3]; maps_<camera> float16[B, I, c, h, w] if a frozen encoder's are known; proprio
float32[B, P, D] normalised; action float32[B, H, A] normalised; action_pad_mask bool[B, H], False beyond the episode's
end; rho float32[B, P]; target_rho float32[B, H], of the actions' steps; change_distance float32[B], steps from the
present step to the nearest change point; transition bool[B]; phase int64[B]; window int64[B], number of the window.
"""


class SmallPolicy(nn.Module):
    """A vision, proprioception or vision-proprioception policy.

    Args:
        config: parts and sizes.
        method: name of what it is trained with.
        image_shape: height, width, channels.
        proprio_dim, action_dim: widths of proprioception and of an action.
        cameras: one encoder each.
        how: that method (`gap_vla.policies.methods.Method`): its branches, fusion and `extras`.

    Attributes:
        encoders: image encoder of each camera.
        proprio_encoder: the branch that GAP adjusts; absent from a vision policy.
        head: see `gap_vla.policies.heads`.
        extras: what the method needs in training only.
        vision_dim: width of the image features as the fusion gets them.
    """

    encoders: Any
    fusion: Any
    head: Any
    extras: Any

    def __init__(
        self,
        config: SmallModelConfig,
        method: str,
        image_shape: tuple[int, int, int],
        proprio_dim: int,
        action_dim: int,
        cameras: Sequence[str],
        how: Any,
    ):
        super().__init__()
        self.config, self.method = config, method
        self.image_shape, self.proprio_dim, self.action_dim = image_shape, proprio_dim, action_dim
        self.cameras = tuple(cameras) if how.vision else ()
        self.uses_vision, self.uses_proprio = bool(how.vision), bool(how.proprio)
        self.autocast_dtype: torch.dtype | None = None  # of the image encoders, while training
        self.view: str | None = None  # of the primary camera in training, where a saved policy tells
        temporal = registry.find(registry.TEMPORALS, config.temporal)
        self.stepwise = bool(temporal.stepwise)
        vision_dim = proprio_width = 0
        if self.uses_vision:
            encoder = registry.find(registry.ENCODERS, config.encoder)
            smallest = registry.SMALLEST_IMAGE[config.encoder]
            if min(image_shape[:2]) < smallest:
                raise ConfigError(
                    f"images are {image_shape[0]} × {image_shape[1]}; encoder {config.encoder} needs at least "
                    f"{smallest} × {smallest}"
                )
            self.encoders = nn.ModuleDict({camera: encoder(config, image_shape) for camera in cameras})
            vision_dim = config.feature_dim * len(cameras) * (1 if self.stepwise else config.image_history)
        if self.uses_proprio:
            self.proprio_encoder = ProprioEncoder(
                proprio_dim, config.proprio_history, config.feature_dim, config.proprio_layers, self.stepwise
            )
            proprio_width = config.feature_dim
        fused = vision_dim + proprio_width
        if self.uses_vision and self.uses_proprio:
            fusion = registry.find(registry.FUSIONS, how.fusion or config.fusion)
            self.fusion = fusion(config, vision_dim, proprio_width)
            fused = self.fusion.output_dim
        self.temporal = temporal(config, fused)
        self.head = registry.find(registry.HEADS, config.head)(config, self.temporal.output_dim, action_dim)
        self.vision_dim = vision_dim
        self.extras = nn.ModuleDict(how.extras(self))

    @property
    def branches(self) -> dict[str, nn.Module]:
        """The feature extractors of each modality, by name."""
        found: dict[str, nn.Module] = {"vision": self.encoders} if self.uses_vision else {}
        return found | ({"proprio": self.proprio_encoder} if self.uses_proprio else {})

    def features(self, images: torch.Tensor | Mapping[str, torch.Tensor]) -> Float[torch.Tensor, "b w d"]:
        """Image features of every frame, those of several cameras side by side.

        Args:
            images: uint8[B, W, h, w, 3], or a dictionary with one such tensor per `image_<camera>`, or with the maps
                that a frozen encoder made of them, `maps_<camera>`.
        """
        if not isinstance(images, Mapping):
            images = {f"image_{self.cameras[0]}": images}
        found = []
        for camera in self.cameras:
            known = images.get(f"maps_{camera}")
            frames = images[f"image_{camera}"] if known is None else known
            batch, window = frames.shape[:2]
            whole = self.training or torch.is_grad_enabled()  # else frames do not depend on each other
            at_once = len(frames) * window if whole else registry.PIXELS_AT_ONCE // math.prod(self.image_shape[:2])
            parts = frames.flatten(0, 1).split(max(at_once, 1))
            features = torch.cat([self._encoded_frames(camera, part) for part in parts])
            found.append(features.unflatten(0, (batch, window)))
        return torch.cat(found, -1)

    def _encoded_frames(self, camera: str, frames: torch.Tensor) -> Float[torch.Tensor, "n d"]:
        inputs = (frames.permute(0, 3, 1, 2) if frames.dtype == torch.uint8 else frames).float().contiguous()
        enabled = self.autocast_dtype is not None
        with torch.autocast(frames.device.type, self.autocast_dtype or torch.bfloat16, enabled=enabled):
            return self.encoders[camera](inputs).float()

    def _as_tokens(self, features: Float[torch.Tensor, "b w d"]) -> Float[torch.Tensor, "b w2 d2"]:
        """Image features as the fusion wants them: per step, or the frames of the history side by side."""
        return features if self.stepwise else features.flatten(1)[:, None]

    def embed(
        self, vision: Float[torch.Tensor, "b w v"] | None, proprio: Float[torch.Tensor, "b w p"] | None
    ) -> Float[torch.Tensor, "b d"]:
        """The head's input from the branches' features; None for a branch that the policy does not have."""
        if vision is not None and proprio is not None:
            return self.temporal(self.fusion(vision, proprio))
        tokens = vision if vision is not None else proprio
        assert tokens is not None
        return self.temporal(tokens)

    def branch_features(self, batch: Batch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Features of both branches; None where the method has no such branch."""
        vision = self._as_tokens(self.features(batch)) if self.uses_vision else None
        proprio = self.proprio_encoder(batch["proprio"]) if self.uses_proprio else None
        return vision, proprio

    def forward(self, batch: Batch, generator: Generators = None) -> Float[torch.Tensor, "b h a"]:
        """The predicted chunk, normalised as the training data."""
        return self.head.predict(self.embed(*self.branch_features(batch)), generator)

    def predict(
        self,
        features: Float[torch.Tensor, "b w d"] | None,
        proprio: Float[torch.Tensor, "b w2 p"] | None,
        generator: Generators = None,
    ) -> Float[torch.Tensor, "b h a"]:
        """As `forward`, from image features that are known already (`features`); None for a branch that the policy
        does not have."""
        vision = None if features is None else self._as_tokens(features)
        encoded = None if proprio is None else self.proprio_encoder(proprio)
        return self.head.predict(self.embed(vision, encoded), generator)
