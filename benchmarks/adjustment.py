"""What GAP adds to a training step of a torch policy: the same policy with and without, step by step in turns.

    python benchmarks/adjustment.py

`submodule`: the small policy of `finetune_configs/small_assembly.py` (64×64 images), GAP on its proprioceptive encoder.
`columns`: Diffusion Policy's way, 12 convolution blocks that each read a condition with raw state in it.
Prints medians of processor time on one thread and the median ratio of pairs. A ratio near 1 drowns in what other jobs
do to the caches, so the adjusted part is also run alone, where GAP's own work shows, and that is compared with a step.
docs/PERFORMANCE.md names the bounds.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import Adjustment, attach, attach_columns

SCHEDULE = AdjustmentSchedule(lam=0.3, window=1.0, rho="current")
STEPS = 1_000_000


class Block(nn.Module):
    """A convolution over the chunk, shifted by a linear function of the condition."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.convolve = nn.Sequential(nn.Conv1d(channels, channels, 5, padding=2), nn.GroupNorm(8, channels), nn.Mish())
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, channels))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return x + self.convolve(x) + self.cond_encoder(condition)[..., None]


class Denoiser(nn.Module):
    def __init__(self, channels: int = 256, condition: int = 128 + 2 * 80):
        super().__init__()
        self.blocks = nn.ModuleList([Block(channels, condition) for _ in range(12)])

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, condition)
        return x


Case = tuple[nn.Module, Callable[[nn.Module], torch.Tensor], Callable[[nn.Module], Adjustment]]
"""A policy, its losses, and how GAP is attached."""


def submodule_case(batch_size: int) -> tuple[Case, Case]:
    from gap_vla.policies.config import SmallModelConfig
    from gap_vla.policies.methods import build_policy

    config = SmallModelConfig()
    policy = build_policy(config, "gap", (64, 64, 3), proprio_dim=9, action_dim=4)
    batch = {
        "image_primary": torch.randint(0, 255, (batch_size, 1, 64, 64, 3), dtype=torch.uint8),
        "proprio": torch.randn(batch_size, config.proprio_history, 9),
    }
    target = torch.randn(batch_size, config.action_horizon, 4)

    def adjust(p: nn.Module) -> Adjustment:
        return attach(p, "proprio_encoder", SCHEDULE, total_steps=STEPS)

    encoder = policy.proprio_encoder
    assert isinstance(encoder, nn.Module)
    alone = nn.ModuleDict({"proprio_encoder": encoder})
    return (
        (policy, lambda p: (p(batch) - target).square(), adjust),
        (alone, lambda p: p["proprio_encoder"](batch["proprio"]).square(), adjust),
    )


def columns_case(batch_size: int) -> tuple[Case, Case]:
    x, condition = torch.randn(batch_size, 256, 16), torch.randn(batch_size, 288)
    read = [slice(128, 137), slice(208, 217)]
    policy = Denoiser()

    def adjust(p: nn.Module) -> Adjustment:
        columns = {name: read for name, _ in p.named_modules() if name.endswith("cond_encoder.1")}
        return attach_columns(p, columns, SCHEDULE, total_steps=STEPS)

    readers = [module for name, module in policy.named_modules() if name.endswith("cond_encoder")]
    alone = nn.ModuleDict({f"{i}": nn.ModuleDict({"cond_encoder": reader}) for i, reader in enumerate(readers)})
    return (
        (policy, lambda p: p(x, condition).square(), adjust),
        (alone, lambda p: sum(b["cond_encoder"](condition).square() for b in p.values()), adjust),
    )


CASES = {"submodule": submodule_case, "columns": columns_case}


def seconds_of(case: Case, pairs: int, batch_size: int, kind: Any) -> np.ndarray:
    """Seconds of processor time of every step, f64[pairs, (with GAP, without)]."""
    policy, losses, adjust = case
    policies = [copy.deepcopy(policy).train() for _ in range(2)]
    optimizers = [torch.optim.AdamW(policy.parameters(), lr=1e-4, foreach=True) for policy in policies]
    gap = adjust(policies[0])
    gap.watch(optimizers[0])
    gap.schedule = dataclasses.replace(SCHEDULE, rho=kind)
    rho = torch.rand(losses(policy.eval()).shape[:2] if kind == "chunk" else (batch_size, 2))
    seconds = np.empty((pairs + 3, 2))
    for pair in range(len(seconds)):
        for which in (0, 1) if pair % 2 else (1, 0):
            start = time.process_time()
            with gap.adjusting(rho, pair) if which == 0 else contextlib.nullcontext():
                value = losses(policies[which])
                value = gap.scale_losses(value) if which == 0 else value
            value.mean().backward()
            optimizers[which].step()
            optimizers[which].zero_grad()
            seconds[pair, which] = time.process_time() - start
    return seconds[3:]  # the first three warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="paired steps (default 60)")
    parser.add_argument("--batch_size", type=int, default=64, help="samples in a step (default 64)")
    parser.add_argument("--rho", choices=["current", "chunk"], default="current", help="whose rho acts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, case in CASES.items():
        whole, alone = case(options.batch_size)
        own = float(np.median(-np.diff(seconds_of(alone, 5 * options.pairs, options.batch_size, options.rho))))
        seconds = seconds_of(whole, options.pairs, options.batch_size, options.rho)
        step = float(np.median(seconds[:, 1]))
        low, middle, high = np.quantile(100 * (seconds[:, 0] / seconds[:, 1] - 1), (0.25, 0.5, 0.75))
        print(f"{name} (batch {options.batch_size}): a step takes {1e3 * step:.1f} ms without GAP")
        print(f"  with GAP {middle:+.2f} % (median of {options.pairs} pairs; half within {low:+.2f} to {high:+.2f} %)")
        print(
            f"  GAP's own work, on the adjusted part alone: {1e3 * own:.2f} ms, {own / step:.2%} of a step", flush=True
        )


if __name__ == "__main__":
    main()
