"""Training methods: what each changes of `Concat`, which trains both branches plainly. Here GAP and its controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import ConfigError
from gap_vla.policies import registry
from gap_vla.policies.config import RivalsConfig, SmallModelConfig
from gap_vla.policies.policy import SmallPolicy


@dataclasses.dataclass(frozen=True)
class Forward:
    """One forward pass in training: the batch as it was shown, features of the branches float[B, W, D], loss
    float[B, H].
    """

    policy: SmallPolicy
    batch: dict[str, Any]
    vision: torch.Tensor | None
    proprio: torch.Tensor | None
    loss: torch.Tensor


class Method:
    """Plain training of both branches; subclasses override what they do differently.

    Attributes:
        vision, proprio: which branches the policy has.
        fusion: name of a fusion of the method's own, or empty for the configured one.
        heads: the action heads it works with; empty: all.
        needs_change_points, needs_phase: what it trains with, so the dataset must carry it.
        rho_source: one of `registry.OF_THE_DATASET`, or a method of `gap_vla.phases`.
        moves_rho: whether ρ is moved from the change points to the middle of the segments.
        changes: what it changes of the configured gradient adjustment (M6).
    """

    vision = True
    proprio = True
    fusion = ""
    heads: tuple[str, ...] = ()
    needs_change_points = False
    needs_phase = False
    rho_source = "dataset"
    moves_rho = False
    changes: Mapping[str, Any] = {"mode": "none"}

    def __init__(self, options: RivalsConfig | None = None) -> None:
        self.options = options or RivalsConfig()

    def check(self, name: str, model: SmallModelConfig) -> None:
        """Raises ConfigError if the method of that name and the head do not fit together."""
        if self.heads and model.head not in self.heads:
            raise ConfigError(
                f"method {name} compares losses as ratios, which head {model.head!r} does not allow "
                f"(its loss can be negative); choose model.head {' or '.join(self.heads)}"
            )

    def extras(self, policy: SmallPolicy) -> Mapping[str, nn.Module]:
        """Modules that only training needs; they become `policy.extras` and are saved with it."""
        return {}

    def schedule(self, configured: AdjustmentSchedule) -> AdjustmentSchedule:
        """The gradient adjustment of this method."""
        return dataclasses.replace(configured, **self.changes)

    def says(self, schedule: AdjustmentSchedule, length: str) -> str:
        """How gradients are adjusted in a run of that length, in words for the top of its output."""
        what = f", rho {self.rho_source} ({schedule.rho})" if schedule.needs_rho else ""
        what += f", rho = {schedule.fixed_rho}" if schedule.mode == "fixed" else ""
        return f"mode {schedule.mode}, lam {schedule.factor}{what}, first {100 * schedule.window:.6g}% of {length}"

    def check_held_out(self, held_out: Any, where: Any) -> None:
        """Raises ConfigError if the held-out windows (`SmallWindows`) of the store lack what the method measures."""

    def before_step(self, trainer: Any, step: int) -> None:
        """Called before each step of a `gap_vla.training.torch_trainer.SmallTrainer`."""

    def inputs(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """What the policy is shown of a training batch; the generator (on the CPU) is seeded from run and step."""
        return batch

    def loss(self, out: Forward, generator: torch.Generator) -> torch.Tensor:
        """The scalar to minimise: by default the mean over all actions before the episode's end."""
        return masked_mean(out.loss, out.batch["action_pad_mask"])

    def after_backward(self, out: Forward, generator: torch.Generator) -> None:
        """Changes gradients in place, before clipping."""

    def measurements(self) -> dict[str, float]:
        """Of a logging step, by name."""
        return {}

    def state(self) -> dict[str, float]:
        """What the method remembers from step to step; saved, and given to `restore`."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Goes on from there."""


class Concat(Method):
    """The baseline."""


class Vision(Method):
    """Vision only: there is no proprioceptive branch."""

    proprio = False


class Proprio(Method):
    """State only: there is no image encoder. What is left of the success rate needs no eyes."""

    vision = False


class Gap(Method):
    """M6: the proprioceptive branch learns from each sample with 1 − ρ and is updated with λ, in the first half."""

    changes: Mapping[str, Any] = {}


class GapMoved(Gap):
    """A control: GAP whose ρ is turned by half of each segment, so that it is high in the middle of the phases."""

    needs_change_points = True
    moves_rho = True


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is True."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum()


def method_of(name: str, options: RivalsConfig | None = None) -> Method:
    """The method of that name.

    Args:
        options: settings of the rival methods; default: the library's.

    Raises:
        ConfigError: unknown name; the message lists the names there are.
    """
    name = registry.method_name(name)
    method = registry.find(registry.METHODS, name)(options)
    method.rho_source = registry.RHO_SOURCES.get(name, method.rho_source)
    method.changes = registry.CONTROLS.get(name, method.changes)
    return method


def build_policy(
    config: SmallModelConfig,
    method: str,
    image_shape: tuple[int, int, int],
    proprio_dim: int,
    action_dim: int,
    cameras: Sequence[str] = ("primary",),
) -> SmallPolicy:
    """The policy of a method; its weights come from torch's global generator.

    Args:
        config: parts and sizes.
        method: name in `gap_vla.policies.registry.METHODS`.
        image_shape: height, width, channels.
        proprio_dim: width of proprioception.
        action_dim: width of an action.
        cameras: one encoder each.

    Raises:
        ConfigError: unknown method, or images that are too small for the encoder.
    """
    name = registry.method_name(method)
    recorded = registry.RECORDED.get(name, name)
    return SmallPolicy(config, recorded, image_shape, proprio_dim, action_dim, cameras, method_of(name))
