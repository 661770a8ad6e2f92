"""The parts of a small policy and the settings of its methods; loads no torch, so a wrong value is reported at once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.core.config import STRICT, Horizon, choose
from gap_vla.core.errors import ConfigError
from gap_vla.policies import registry

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class SmallModelConfig:
    """The parts of the policy by name, and their sizes."""

    encoder: str = "small"
    """Image encoder: `small`, which one processor core trains in minutes, the paper's `resnet18`, or the pretrained and
    frozen `efficientnet_lite0` (extra `eyes`)."""
    encoder_width: Annotated[int, Field(ge=8, multiple_of=8)] = 16
    """Channels of the small encoder's stem, in groups of 8 (GroupNorm)."""
    encoder_weights: str = ""
    """Weights for `resnet18` with torchvision's names, .pth or .safetensors; empty: random ones."""
    feature_dim: Count = 256
    """Width of the image features of a frame, and of the proprioceptive features."""
    image_history: Horizon = 1
    """Frames that the policy sees, the present one included."""
    proprio_history: Horizon = 5
    """Steps of proprioception that the policy sees."""
    proprio_layers: Count = 3
    """Layers of the proprioceptive MLP, which GAP adjusts."""
    temporal: str = "none"
    """Model of the history: `none` stacks it into one step, `transformer` is the paper's."""
    temporal_layers: Count = 4
    """Layers of the temporal transformer."""
    temporal_heads: Count = 6
    """Heads of the temporal transformer."""
    temporal_head_dim: Count = 64
    """Width of one head of the temporal transformer."""
    fusion: str = "concat"
    """How features of pictures and proprioception are joined."""
    head: str = "mlp"
    """Action head."""
    head_dim: Count = 512
    """Width of the head's layers."""
    head_layers: Count = 2
    """Hidden layers of the head."""
    action_horizon: Horizon = 9
    """Actions that are predicted at a time."""
    phases: Count = 8
    """Phase tokens of fusion `phase_gate`; at least as many as the dataset has phases."""

    def __post_init__(self) -> None:
        choose(self.encoder, tuple(registry.ENCODERS), "model.encoder")
        choose(self.temporal, tuple(registry.TEMPORALS), "model.temporal")
        choose(self.fusion, tuple(registry.FUSIONS), "model.fusion")
        choose(self.head, tuple(registry.HEADS), "model.head")
        if self.temporal == "transformer" and self.image_history != self.proprio_history:
            raise ConfigError(
                f"model.image_history is {self.image_history} and model.proprio_history {self.proprio_history}; "
                "the temporal transformer fuses them step by step, so they must be equal"
            )
        if self.fusion == "attention" and self.feature_dim % 4:
            raise ConfigError(f"model.feature_dim is {self.feature_dim}; fusion attention has 4 heads, which divide it")

    @property
    def window_size(self) -> int:
        """Steps of history that a batch carries."""
        return max(self.image_history, self.proprio_history)


@dataclass(frozen=True, config=STRICT)
class RivalsConfig:
    """Settings of the methods other than GAP; each class in `gap_vla.policies.rivals` says what they mean."""

    msbot_weight: NotNegative = 0.1
    """Weight of the phase gate's loss in method `msbot`."""
    aux_weight: NotNegative = 1.0
    """Weight of the vision head's loss in method `aux`."""
    mask_probability: Probability = 0.5
    """Probability that method `mask` hides a sample's proprioception."""
    dropout: Probability = 0.2
    """Probability that method `dropout_noise` drops an entry of proprioception."""
    noise: NotNegative = 0.1
    """Standard deviation of method `dropout_noise`, in those of the state."""
    keyframe_weight: NotNegative = 4.0
    """Weight of samples near a change point in method `keyframe`."""
    keyframe_radius: Annotated[int, Field(ge=0)] = 5
    """Steps around a change point that method `keyframe` counts as near."""
    gradnorm_alpha: NotNegative = 1.5
    """Exponent of method `gradnorm`."""
    gradnorm_rate: Annotated[float, Field(ge=0, le=1)] = 0.025
    """How far method `gradnorm` moves a weight of about 1 in a step."""
    ogm_alpha: NotNegative = 0.5
    """Factor inside the tanh of method `ogm_ge`."""
