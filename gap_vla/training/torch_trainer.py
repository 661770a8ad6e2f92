"""A small policy in training: forward, the method's loss, GAP's factors, clipping, AdamW.

At logging steps it says what each branch contributes, split by ρ:

`branch/<branch>_gradient`       norm of the branch's parameter gradient as the optimizer gets it (after GAP, unclipped)
`branch/<branch>_signal_<part>`  mean norm of the loss gradient at the branch's features, per sample, before GAP
`branch/<branch>_loss_<part>`    loss of what the policy does with this branch alone: the other branch's features are
                                 replaced by their mean over the batch

`<branch>` is vision or proprio, `<part>` transition (the dataset's ρ of the present step > 0.5, whatever ρ the method
trains with) or consistent. A part without any sample in the batch is left out. `train/branch_moved` is how far the
proprioceptive branch's parameters are from where they began (L2 norm).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gap_vla.adjustment.account import account
from gap_vla.adjustment.torch import Adjustment, attach
from gap_vla.core.errors import ConfigError
from gap_vla.core.files import replacing
from gap_vla.policies.methods import Forward, build_policy, masked_mean
from gap_vla.policies.policy import SmallPolicy
from gap_vla.policies.saving import save_policy
from gap_vla.policies.windows import SmallWindows, phase_names, rho_of
from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import EpisodeStore
from gap_vla.training.loop import Measured, Trainer
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.torch import SmallConfig


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What the image encoder computes in; None: float32. A processor that only emulates bfloat16 takes ten times as
    long with it.
    """
    able = device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and able) else None


class SmallTrainer(Trainer):
    """Policy, optimizer, method and data of one run.

    Args:
        windows, held_out: of the splits of a store.

    Attributes:
        adjustment: GAP on the proprioceptive encoder, or None.
    """

    def __init__(
        self,
        config: SmallConfig,
        policy: SmallPolicy,
        steps: int,
        windows: SmallWindows,
        held_out: SmallWindows | None,
    ):
        self.config, self.policy, self.steps = config, policy, steps
        self.windows, self.held_out = windows, held_out
        self.method = config.how
        self.schedule = self.method.schedule(config.adjustment)
        self.device = torch.device(config.train.device)
        self.looks_back = self.device.type == "cpu"  # a GPU is not asked, and waited for, at every step
        if self.device.type == "cuda":
            compute_repeatably()
        if not next(policy.parameters()).is_meta:
            policy.to(self.device)
        policy.train()
        policy.autocast_dtype = autocast_dtype(config.train.precision, self.device)
        own = config.optimizer
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), own.learning_rate, weight_decay=own.weight_decay, foreach=True
        )
        branch = list(policy.proprio_encoder.parameters()) if policy.uses_proprio else []
        self._branch = [(parameter, parameter.detach().clone()) for parameter in branch]  # as training began
        self.adjustment: Adjustment | None = None
        if self.schedule.mode != "none" and self.method.proprio:
            self.adjustment = attach(policy, "proprio_encoder", self.schedule, total_steps=steps)
            self.adjustment.watch(self.optimizer)

    @classmethod
    def on(cls, config: SmallConfig, store: EpisodeStore) -> SmallTrainer:
        torch.set_num_threads(config.train.threads)
        torch.manual_seed(config.train.seed)
        if "phase" in config.needed_labels and (known := len(phase_names(store))) > config.model.phases:
            raise ConfigError(f"{store.directory} has {known} phases; set --config.model.phases={known} or more")
        method = config.how
        rho = rho_of(config, store)
        of = {
            split: SmallWindows(config, store, split, rho[split], vision=method.vision, proprio=method.proprio)
            for split in ("train", "val")
            if split in store.splits
        }
        windows, held_out = of["train"], of.get("val")
        method.check_held_out(held_out, store.directory)
        policy = new_policy(config, {name: array.shape[1:] for name, array in store.split("train").fields.items()})
        train = config.train
        steps = -(-train.epochs * len(windows) // train.batch_size) if train.epochs else train.steps
        return cls(config, policy, steps, windows, held_out)

    @classmethod
    def dry_run(cls, config: SmallConfig, shapes: Mapping[str, Sequence[int]]) -> str:
        with torch.device("meta"), warnings.catch_warnings(action="ignore", category=UserWarning):  # takes no memory
            policy = new_policy(config, shapes)
        here = dataclasses.replace(config, train=dataclasses.replace(config.train, device="cpu"))
        no_data: Any = None
        return cls(here, policy, config.train.steps, no_data, no_data).describe()

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

    def batch(self, step: int) -> dict[str, Any]:
        return self.place(self.windows.batch(step))

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the device."""
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def step(self, batch: dict[str, Any], step: int, measure: bool = False) -> Measured:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        generator = self.generator(step)
        self.method.before_step(self, step)
        shown = self.method.inputs(batch, generator)
        rho = shown["target_rho" if self.schedule.of_targets else "rho"]
        signals: dict[str, torch.Tensor] = {}
        acting = self.adjustment.adjusting(rho, step) if self.adjustment else contextlib.nullcontext()
        with acting:
            vision, proprio = self.policy.branch_features(shown)
            action_loss = self.policy.head.loss(self.policy.embed(vision, proprio), shown["action"], generator)
            if self.adjustment:
                action_loss = self.adjustment.scale_losses(action_loss)
            out = Forward(self.policy, shown, vision, proprio, action_loss)
            loss = self.method.loss(out, generator)
            if measure:  # the gradients at the branches' features are kept
                for name, features in (("vision", vision), ("proprio", proprio)):
                    if features is not None and features.requires_grad:
                        features.register_hook(functools.partial(signals.__setitem__, name))
            loss.backward()
        self.method.after_backward(out, generator)
        branches = branch_gradients(self.policy) if measure else {}
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.optimizer.clip_gradient)
        if measure:  # before the parameters move
            branches |= branch_measurements(out, signals, self.generator(step))
            branches["train/action_loss"] = float(masked_mean(out.loss.detach(), batch["action_pad_mask"]))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss.detach()

        def values() -> dict[str, float]:
            own = {"train/gradient_norm": float(norm), "train/learning_rate": self.rate(step)}
            if self._branch:
                moved = sum(float((now.detach() - start).square().sum()) for now, start in self._branch)
                own["train/branch_moved"] = moved**0.5
            if self.adjustment is not None:
                factors = self.adjustment.schedule.factors(rho.cpu().numpy(), step, self.steps)
                real = shown["action_pad_mask"].cpu().numpy() if self.schedule.per_action else ...
                own["gap/sample_factor"] = float(factors.sample[real].mean())
                own["gap/update_factor"] = float(factors.update)
                own |= {"gap/gradient_factor": float(factors.gradient)} if self.schedule.mode == "batch" else {}
            return {"train/loss": float(loss), **branches, **own, **self.method.measurements()}

        return Measured(loss, norm, values)

    def restore(self, folder: Path) -> int:
        self._file = folder / "training.pt"
        if not self._file.exists():
            return 0
        found = torch.load(self._file, map_location="cpu", weights_only=True)
        self.policy.load_state_dict(found["parts"]["policy"])
        self.optimizer.load_state_dict(found["parts"]["optimizer"])
        self.method.restore(found["parts"].get("method", {}))
        return found["step"]

    def state(self) -> dict[str, Any]:
        """All that a step changes."""
        parts = {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}
        return parts | ({"method": own} if (own := self.method.state()) else {})

    def save(self, done: int) -> None:
        with replacing(self._file) as temporary:
            torch.save({"step": done, "parts": self.state()}, temporary)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Means over all held-out windows; empty without any.

        `val/loss`, `val/loss_transition` (the dataset's ρ > 0.5), `val/loss_consistent`, `val/action_mse` of the
        predicted chunk, and `val/mean_action_mse`, what always predicting the training episodes' mean action would
        give. A part without any step is left out.
        """
        policy = self.policy.eval()
        actions = self.windows.statistics["action"]
        mean = torch.from_numpy(normalize(np.asarray(actions["mean"]), actions, self.config.data.normalization))
        mean = mean.to(self.device)
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}

        def add(name: str, values: torch.Tensor, mask: torch.Tensor) -> None:
            weight = mask.to(values.dtype)
            sums[name] = sums.get(name, 0.0) + float((values * weight).sum())
            counts[name] = counts.get(name, 0.0) + float(weight.sum())

        for index, batch in enumerate(self.held_out.in_order() if self.held_out else ()):
            batch = self.place(batch)
            mask, action = batch["action_pad_mask"], batch["action"]
            feature = policy.embed(*policy.branch_features(batch))
            loss = policy.head.loss(feature, action, self.generator(index))
            chunk = policy.head.predict(feature, self.generator(index))
            transition = batch["transition"][:, None] & mask
            add("val/loss", loss, mask)
            add("val/loss_transition", loss, transition)
            add("val/loss_consistent", loss, mask & ~transition)
            add("val/action_mse", (chunk - action).square().mean(-1), mask)
            add("val/mean_action_mse", (mean - action).square().mean(-1), mask)
        policy.train()
        return {name: sums[name] / counts[name] for name in sums if counts[name]}

    def picture(self) -> Mapping[str, Any] | None:
        if not self.method.vision:
            return None
        batch = self.windows.batch(0)
        images = {key: value.numpy() for key, value in batch.items() if key.startswith("image_")}
        rho, there = self.windows.beside_pictures(batch["window"].numpy())
        return {"observation": {**images, "timestep_pad_mask": there}, "rho": rho}

    def export(self, run: RunDirectory) -> None:
        config = self.config
        save_policy(
            self.policy, run.checkpoint, self.windows.statistics, config.data.normalization, config.demos.camera
        )

    def describe(self) -> str:
        """Parameters by branch, and what GAP adjusts."""
        total = sum(p.numel() for p in self.policy.parameters())
        parts = [f"{name} {sum(p.numel() for p in m.parameters()):,}" for name, m in self.policy.branches.items()]
        kind = str(self.policy.autocast_dtype or torch.float32).removeprefix("torch.")
        lines = [f"policy: {self.config.method}, {total:,} parameters ({', '.join(parts)}), pictures in {kind}"]
        if self.adjustment is not None:
            epochs = self.config.train.epochs
            says = self.method.says(self.schedule, f"{epochs} epochs" if epochs else f"{self.steps} steps")
            lines.append(f"adjusted: {says}, on {', '.join(self.adjustment.parameters)}")
            if self.windows is not None:
                data = self.windows.data
                points, horizon = data.fields.get("change_point"), self.config.model.action_horizon
                lines += account(self.schedule, self.windows.rho, points, data.offsets, horizon)
        return "\n".join(lines)


def new_policy(config: SmallConfig, shapes: Mapping[str, Sequence[int]]) -> SmallPolicy:
    """The policy of a configuration, for the shapes of a step's fields."""
    cameras = config.demos.cameras
    height, width, channels = map(int, shapes[f"image_{cameras[-1]}"])
    widths = shapes["proprio"][0], shapes["action"][0]
    return build_policy(config.model, config.method, (height, width, channels), *widths, cameras)


def compute_repeatably() -> None:
    """The same bits at every run on a GPU, and float32 as it is named: cuDNN takes other sums, and TF32, by itself."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch refuses cuBLAS without
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@torch.no_grad()
def branch_gradients(policy: SmallPolicy) -> dict[str, float]:
    """Norm of every branch's parameter gradient; call after backward, before clipping."""
    found = {}
    for name, branch in policy.branches.items():
        squares = [float(p.grad.square().sum()) for p in branch.parameters() if p.grad is not None]
        found[f"branch/{name}_gradient"] = sum(squares) ** 0.5
    return found


@torch.no_grad()
def branch_measurements(
    out: Forward, signals: Mapping[str, torch.Tensor], generator: torch.Generator
) -> dict[str, float]:
    """Signals and losses of the branches; the module says what they are.

    Args:
        signals: the loss's gradient at the features of each branch.
    """
    transition = out.batch["transition"]
    parts = {"transition": transition, "consistent": ~transition}
    found: dict[str, float] = {}
    for name, signal in signals.items():
        norms = signal.flatten(1).norm(dim=1) * len(signal)  # the loss is a mean over samples
        for part, rows in parts.items():
            if rows.any():
                found[f"branch/{name}_signal_{part}"] = float(norms[rows].mean())
    if out.vision is None or out.proprio is None:
        return found
    means = {name: f.mean(0, keepdim=True).expand_as(f) for name, f in (("v", out.vision), ("p", out.proprio))}
    drawn = generator.get_state()
    for name, pair in (("vision", (out.vision, means["p"])), ("proprio", (means["v"], out.proprio))):
        generator.set_state(drawn)  # what is compared has the same noise
        loss = out.policy.head.loss(out.policy.embed(*pair), out.batch["action"], generator)
        for part, rows in parts.items():
            weight = out.batch["action_pad_mask"] & rows[:, None]
            if weight.any():
                found[f"branch/{name}_loss_{part}"] = float(masked_mean(loss, weight))
    return found
