"""LeRobot's policies with GAP on the part that reads the state. Forward pass, parameters and inference are theirs."""

from __future__ import annotations

import importlib
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.overrides import TorchFunctionMode

from gap_vla.adjustment.torch import Adjustment, attach, attach_columns
from lerobot_policy_gap import configuration_gap
from lerobot_policy_gap.rho import RhoOfFrames

BRANCHES = {
    "gap_act": ("model.encoder_robot_state_input_proj", "model.vae_encoder_robot_state_input_proj"),
    "gap_smolvla": ("model.state_proj",),
    "gap_pi0": ("model.state_proj",),
    "gap_groot": ("_groot_model.action_head.state_encoder",),
}
"""The submodules that read the state. Diffusion has none: there the columns of a condition's weights read it."""
LOSSES = (functional.mse_loss, functional.l1_loss)
STATE = ("observation.state", "state")  # GR00T's preprocessor renames it


class GapPolicy:
    """A base of each `gap_*` policy, before LeRobot's own class."""

    config: Any
    name: str
    training: bool
    dataset: Any = None
    """The metadata of the dataset that is trained on."""
    _gap: Adjustment | None = None
    _rho: RhoOfFrames | None = None
    _scheduler: LRScheduler

    def __init__(self, config: Any, *inputs: Any, **keywords: Any) -> None:
        super().__init__(config, *inputs, **keywords)  # type: ignore[call-arg]
        self.dataset = keywords.get("dataset_meta")
        configuration_gap.POLICIES.add(self)

    @classmethod
    def from_pretrained(cls, *inputs: Any, **keywords: Any) -> Any:
        policy = super().from_pretrained(*inputs, **keywords)  # type: ignore[misc]
        policy.dataset = keywords.get("dataset_meta")
        return policy

    def begin_gap(self, optimizer: Optimizer, scheduler: LRScheduler, total_steps: int) -> None:
        """Attaches GAP for a training run; the scheduler counts its steps. Without a window it is only watched."""
        file = Path(self.config.gap_rho) if self.config.gap_rho else None
        schedule = self.config.gap_schedule
        needed = schedule.needs_rho and schedule.window
        self._rho = RhoOfFrames(Path(self.dataset.root), file) if needed else None
        self._scheduler = scheduler
        if self.name == "gap_diffusion":
            self._gap = attach_columns(self, self._columns(), schedule, total_steps=total_steps)  # type: ignore[arg-type]
        else:
            there = dict(self.named_modules())  # type: ignore[attr-defined]
            names = [name for name in BRANCHES[self.name] if name in there] or BRANCHES[self.name]
            self._gap = attach(self, names, schedule, total_steps=total_steps)  # type: ignore[arg-type]
        self._gap.watch(optimizer)
        steps, file = schedule.active_steps(total_steps), self._rho and self._rho.file
        logging.info("%r\nin %d of %d steps, with ρ from %s", self._gap, steps, total_steps, file)

    def _columns(self) -> dict[str, list[slice]]:
        """Of every layer of Diffusion that reads the condition, where each observation's state lies in its input."""
        config, first = self.config, self.config.diffusion_step_embed_dim
        layers = {name: layer for name, layer in self.named_modules() if name.endswith("cond_encoder.1")}  # type: ignore[attr-defined]
        width = (next(iter(layers.values())).in_features - first) // config.n_obs_steps
        state = config.robot_state_feature.shape[0]
        begins = [first + step * width for step in range(config.n_obs_steps)]
        return {name: [slice(begin, begin + state) for begin in begins] for name in layers}

    def forward(self, batch: dict[str, Any], *inputs: Any, **keywords: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        plain = super().forward  # type: ignore[misc]
        if not self.training:
            return plain(batch, *inputs, **keywords)
        if self.config.gap_state_dropout:
            batch = _drop_states(batch, self.config.gap_state_dropout)
        if self._gap is None:
            return plain(batch, *inputs, **keywords)
        step, total, rho = self._scheduler.last_epoch, self._gap.total_steps, None
        if self._rho:
            form = self.config.gap_rho_form
            rho = self._rho.of(batch["index"].cpu(), [0] if form == "current" else self.config.action_delta_indices)
        if step % max(total // 10, 1) == 0 or step == total - 1:
            logging.info("step %d of %d: the state's branch has moved by %.4g", step, total, self._gap.moved())
        per_action = rho is not None and self._gap.schedule.per_action
        with self._gap.adjusting(rho, step), _ScaledLosses(self._gap, rho.shape) if per_action else nullcontext():
            loss, outputs = plain(batch, *inputs, **keywords)
        return loss, {**(outputs or {}), "gap_rho": 0.0 if rho is None else float(rho.mean())}


class _ScaledLosses(TorchFunctionMode):
    """Within it, losses of single actions, [B, H, A], pass through `scale_losses` before their mean is taken."""

    def __init__(self, gap: Adjustment, shape: torch.Size):
        super().__init__()
        self.gap, self.shape = gap, shape

    def __torch_function__(self, function: Any, types: Any, inputs: Any = (), keywords: Any = None) -> Any:
        result = function(*inputs, **(keywords or {}))
        return self.gap.scale_losses(result) if function in LOSSES and result.shape[:2] == self.shape else result


def _drop_states(batch: dict[str, Any], share: float) -> dict[str, Any]:
    """The batch with the state of so large a share of samples at 0, which is the mean of a normalised state."""
    name = next(name for name in STATE if name in batch)
    state = batch[name]
    kept = torch.rand(len(state), device=state.device) >= share
    return {**batch, name: state * kept.reshape(-1, *[1] * (state.ndim - 1))}


def __getattr__(name: str) -> Any:
    """`GapACTPolicy` and so on; LeRobot's class and its libraries are imported when it is asked for."""
    config = getattr(configuration_gap, name.removesuffix("Policy") + "Config", None)
    if not name.endswith("Policy") or config is None:
        raise AttributeError(name)
    plain = config.__mro__[2]  # behind GapOptions
    module = importlib.import_module(plain.__module__.replace("configuration_", "modeling_"))
    base = getattr(module, plain.__name__.removesuffix("Config") + "Policy")
    own = {"config_class": config, "name": config.get_choice_name(config), "__module__": __name__}
    globals()[name] = type(name, (GapPolicy, base), own)
    return globals()[name]
