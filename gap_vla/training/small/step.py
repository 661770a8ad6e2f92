"""One training step of a small policy: forward, the method's loss, GAP's factors, clipping, AdamW."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch

from gap_vla.adjustment.torch import Adjustment, attach
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.config import SmallConfig
from gap_vla.policies.methods import Forward, masked_mean, method_of
from gap_vla.policies.policy import SmallPolicy
from gap_vla.training.small.branches import branch_gradients, branch_measurements, watch


class SmallTrainer:
    """Policy, optimizer and method of one run.

    Attributes:
        adjustment: GAP on the proprioceptive encoder, or None.
    """

    def __init__(self, config: SmallConfig, policy: SmallPolicy, steps: int):
        self.config, self.policy, self.steps = config, policy, steps
        self.method = method_of(config.method, config.rivals)
        self.schedule = self.method.schedule(config.adjustment)
        device = config.train.device
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("train.device is 'cuda', but torch finds no such device; use --config.train.device=cpu")
        self.device = torch.device(device)
        policy.to(self.device).train()
        policy.autocast_dtype = torch.bfloat16 if config.train.precision == "bfloat16" else None
        rate = config.optimizer.learning_rate
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=rate, weight_decay=config.optimizer.weight_decay, foreach=True
        )
        self.adjustment: Adjustment | None = None
        if self.schedule.mode != "none" and self.method.proprio:
            self.adjustment = attach(policy, "proprio_encoder", self.schedule, total_steps=steps)
            self.adjustment.watch(self.optimizer)

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step: linear warm-up, then half a cosine to zero."""
        own = self.config.optimizer
        if step < own.warmup_steps:
            return own.learning_rate * (step + 1) / own.warmup_steps
        part = (step - own.warmup_steps) / max(self.steps - own.warmup_steps, 1)
        return own.learning_rate * 0.5 * (1 + math.cos(math.pi * part))

    def generator(self, step: int) -> torch.Generator:
        """Randomness of a step, from run seed and step alone."""
        seed = (self.config.train.seed * 1_000_003 + step) % 2**63
        return torch.Generator(device="cpu").manual_seed(seed)

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def step(self, batch: dict[str, Any], step: int, measure: bool = False) -> dict[str, float]:
        """Trains on one batch (tensors on the device).

        Args:
            measure: also say what each branch did (`gap_vla.training.small.branches`); the step is the same.

        Returns:
            The measurements; empty unless `measure`. `loss` and `norm` hold loss and gradient norm as tensors.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        generator = self.generator(step)
        shown = self.method.inputs(batch, generator)
        acting = self.adjustment.adjusting(batch["rho"], step) if self.adjustment else contextlib.nullcontext()
        with acting:
            out, loss = self._forward(shown, generator)
            if measure:
                watch(out)
            loss.backward()
        self.method.after_backward(self.policy, shown, out, generator)
        measured = branch_gradients(self.policy) if measure else {}
        self.norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.optimizer.clip_gradient)
        if measure:  # before the parameters move
            measured |= branch_measurements(self.policy, shown, out, self.generator(step))
            measured["train/action_loss"] = float(masked_mean(out.loss.detach(), batch["action_pad_mask"]))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()
        return measured

    def _forward(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Forward, torch.Tensor]:
        vision, proprio = self.policy.branch_features(batch)
        feature = self.policy.embed(vision, proprio)
        out = Forward(vision, proprio, feature, self.policy.head.loss(feature, batch["action"], generator))
        return out, self.method.loss(self.policy, batch, out, generator)

    def state(self) -> dict[str, Any]:
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])

    def describe(self) -> str:
        """Parameters by branch, and what GAP adjusts."""
        total = sum(p.numel() for p in self.policy.parameters())
        parts = [f"{name} {sum(p.numel() for p in m.parameters()):,}" for name, m in self.policy.branches.items()]
        lines = [f"policy: {self.config.method}, {total:,} parameters ({', '.join(parts)})"]
        if self.adjustment is not None:
            schedule = self.schedule
            what = f"rho {self.method.rho_source}" if schedule.needs_rho else f"rho = {schedule.fixed_rho}"
            lines.append(
                f"GAP: mode {schedule.mode}, lam {schedule.lam}, {what} ({schedule.rho}), first "
                f"{schedule.window:.0%} of {self.steps} steps, on {', '.join(self.adjustment.parameters)}"
            )
        return "\n".join(lines)
