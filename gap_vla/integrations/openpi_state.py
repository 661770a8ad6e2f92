"""ρ in the state of openpi's π0, for JAX and PyTorch, and GAP in its PyTorch model (read at 15a9616).

openpi drops every field of a batch that it does not know. So ρ travels in the last slot of the state, which openpi pads
to 32 values. It is read and set to 0 before the model sees the state.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import ConfigError


def require_pi0(model: Any) -> None:
    if getattr(model, "pi05", None) is not False:
        kind = "π0.5" if getattr(model, "pi05", False) else type(model).__name__
        raise ConfigError(f"{kind} reads the state as text in its prompt, or not at all: GAP needs π0's state_proj")


@dataclasses.dataclass(frozen=True)
class RhoInState:
    """A `DataConfigFactory`: `inner`, and ρ of each frame in the last slot of its padded state."""

    inner: Any
    rho_of_frame: np.ndarray

    def create(self, assets_dirs: Any, model_config: Any) -> Any:
        data = self.inner.create(assets_dirs, model_config)
        repack, robot, model = data.repack_transforms, data.data_transforms, data.model_transforms
        first = (LookUp(self.rho_of_frame), *map(Keep, repack.inputs))
        return dataclasses.replace(
            data,
            repack_transforms=dataclasses.replace(repack, inputs=first),
            data_transforms=dataclasses.replace(robot, inputs=tuple(map(Keep, robot.inputs))),
            model_transforms=dataclasses.replace(model, inputs=(Pack(model_config.action_dim), *model.inputs)),
        )


@dataclasses.dataclass(frozen=True)
class LookUp:
    """Adds `rho` to a frame of the dataset."""

    rho_of_frame: np.ndarray

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "rho": self.rho_of_frame[int(data["index"])]}


@dataclasses.dataclass(frozen=True)
class Keep:
    """Carries `rho` past a transform that makes a new dictionary."""

    transform: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        kept = {"rho": data.pop("rho")} if "rho" in data else {}
        return {**self.transform(data), **kept}


@dataclasses.dataclass(frozen=True)
class Pack:
    """Pads the state to `width`, with `rho` as its last value. Without `rho`, as when serving, nothing changes."""

    width: int

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if "rho" not in data:
            return data
        rho, state = data.pop("rho"), np.asarray(data["state"])
        if len(state) >= self.width:
            raise ConfigError(f"the state has {len(state)} values of {self.width}, so no slot is free for rho")
        return {
            **data,
            "state": np.concatenate([state, np.zeros(self.width - len(state) - 1), [rho]], dtype=np.float32),
        }


def attach_pytorch(model: Any, schedule: AdjustmentSchedule, *, total_steps: int) -> Any:
    """`attach` for `PI0Pytorch`, wrapped by DDP or not; its configuration's `data` is `RhoInState`.

    Raises ConfigError: the model is π0.5.
    """
    from gap_vla.adjustment.torch import attach

    model = getattr(model, "module", model)
    require_pi0(model)
    return attach(model, "state_proj", schedule, total_steps=total_steps)


@contextlib.contextmanager
def adjusting(gap: Any, observation: Any, step: int) -> Iterator[Any]:
    """`gap.adjusting` with the ρ that an observation carries; gives the observation that PyTorch's model is to see."""
    state = observation.state.clone()
    state[:, -1] = 0
    with gap.adjusting(observation.state[:, -1], step):
        yield dataclasses.replace(observation, state=state)
