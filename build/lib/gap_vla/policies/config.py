"""The parts of a small policy and the settings of its methods; loads no torch, so a wrong value is reported at once."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from gap_vla.core.typed_config import HORIZON, Bounds, ConfigError, check_numbers, choose
from gap_vla.policies import registry

LAYERS = Bounds(1, 32, "each a matrix; the recipe has 2 to 4")
WIDTH = Bounds(1, 8192, "numbers of a feature; the recipe has 512")
WEIGHT = Bounds(0, 1000, "beside a loss of weight 1")
PROBABILITY = Bounds(0, 0.999, "something must be left")


@dataclasses.dataclass(frozen=True)
class SmallModelConfig:
    """The parts of the policy by name, and their sizes."""

    encoder: str = "small"
    # channels of the small encoder's stem
    encoder_width: Annotated[int, Bounds(8, 1024, "channels in groups of 8")] = 16
    encoder_weights: str = ""  # .pth or .safetensors with torchvision's names, for resnet18
    feature_dim: Annotated[int, WIDTH] = 256  # of the image features per frame, and of the proprioceptive features
    # frames that the policy sees, the present one included
    image_history: Annotated[int, Bounds(1, 64, "pictures that are encoded for one action")] = 1
    proprio_history: Annotated[int, HORIZON] = 5  # steps of proprioception that it sees
    proprio_layers: Annotated[int, LAYERS] = 3
    temporal: str = "none"  # none | transformer
    temporal_layers: Annotated[int, LAYERS] = 4
    temporal_heads: Annotated[int, Bounds(1, 64, "the recipe has 6")] = 6
    temporal_head_dim: Annotated[int, Bounds(1, 512, "the recipe has 64")] = 64
    fusion: str = "concat"
    head: str = "mlp"
    head_dim: Annotated[int, WIDTH] = 512
    head_layers: Annotated[int, LAYERS] = 2  # hidden layers of the head
    action_horizon: Annotated[int, HORIZON] = 9
    # phase tokens of the phase_gate fusion; at least as many as the dataset has phases
    phases: Annotated[int, Bounds(1, 256, "a task has some ten")] = 8

    def __post_init__(self) -> None:
        choose(self.encoder, tuple(registry.ENCODERS), "model.encoder")
        choose(self.temporal, tuple(registry.TEMPORALS), "model.temporal")
        choose(self.fusion, tuple(registry.FUSIONS), "model.fusion")
        choose(self.head, tuple(registry.HEADS), "model.head")
        check_numbers(self, "model")
        if self.encoder_weights and self.encoder != "resnet18":
            raise ConfigError(f"model.encoder_weights is given, but model.encoder {self.encoder!r} has no such weights")
        if self.encoder == "small" and self.encoder_width % 8:
            raise ConfigError(f"model.encoder_width is {self.encoder_width}; it must be a multiple of 8 (GroupNorm)")
        if self.fusion == "attention" and self.feature_dim % 4:
            raise ConfigError(
                f"model.feature_dim is {self.feature_dim}; fusion attention needs a multiple of 4 (its heads)"
            )
        if self.temporal == "transformer" and self.image_history != self.proprio_history:
            raise ConfigError(
                f"model.image_history is {self.image_history} and model.proprio_history {self.proprio_history}; "
                "the temporal transformer fuses them step by step, so they must be equal"
            )

    @property
    def window_size(self) -> int:
        """Steps of history that a batch carries."""
        return max(self.image_history, self.proprio_history)


@dataclasses.dataclass(frozen=True)
class RivalsConfig:
    """Settings of the methods other than GAP; each class in `gap_vla.policies.rivals` says what they mean."""

    msbot_weight: Annotated[float, WEIGHT] = 0.1
    aux_weight: Annotated[float, WEIGHT] = 1.0
    mask_probability: Annotated[float, PROBABILITY] = 0.5
    dropout: Annotated[float, PROBABILITY] = 0.2
    noise: Annotated[float, Bounds(0, 100, "standard deviations of the state")] = 0.1
    keyframe_weight: Annotated[float, WEIGHT] = 4.0
    keyframe_radius: Annotated[int, Bounds(0, 256, "control steps around a change point")] = 5
    gradnorm_alpha: Annotated[float, Bounds(0, 100, "an exponent; the authors' are below 3")] = 1.5
    gradnorm_rate: Annotated[float, Bounds(0, 1, "how far a weight of about 1 moves in a step")] = 0.025
    ogm_alpha: Annotated[float, Bounds(0, 100, "inside a tanh")] = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, "rivals")
