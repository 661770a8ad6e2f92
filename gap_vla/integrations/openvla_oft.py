"""GAP in OpenVLA-OFT's `vla-scripts/finetune.py` (read at 213c5ff).

ρ comes as one more dimension of the dataset's actions (`gap_vla.rlds.transforms.pack_rho`, docs/UPSTREAM.md). It is
taken out before anything of OpenVLA-OFT looks at the actions.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.adjustment.torch import Adjustment, attach

CURRENT = AdjustmentSchedule(rho="current")


def with_gap(script: ModuleType, schedule: AdjustmentSchedule = CURRENT) -> None:
    """Makes `script.finetune` train with GAP on the `proprio_projector`; it needs `use_proprio`.

    Args:
        script: OpenVLA-OFT's `vla-scripts/finetune.py`, as a module; six names in it are replaced.
    """
    run = _Run(script, schedule)
    make_transform, make_collator = script.RLDSBatchTransform, script.PaddedCollatorForActionPrediction
    changed = {
        "init_module": run.init_module,
        "AdamW": run.optimizer,
        "run_forward_pass": run.run_forward_pass,
        "RLDSBatchTransform": lambda *given, **named: TakeRho(make_transform(*given, **named)),
        "PaddedCollatorForActionPrediction": lambda *given, **named: CollateRho(make_collator(*given, **named)),
        "save_dataset_statistics": run.save_dataset_statistics,
    }
    for name, value in changed.items():
        setattr(script, name, value)


class TakeRho:
    """An `RLDSBatchTransform` that takes ρ of the current step out of the actions, float32[chunk, A + 1]."""

    def __init__(self, transform: Callable[[dict[str, Any]], dict[str, Any]]):
        self.transform = transform

    def __call__(self, rlds_batch: dict[str, Any]) -> dict[str, Any]:
        packed = rlds_batch["action"]
        return {**self.transform({**rlds_batch, "action": packed[:, :-1]}), "rho": packed[0, -1]}


class CollateRho:
    """A collator that hands ρ on, float32[B]."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collator = collator

    def __call__(self, instances: list[dict[str, Any]]) -> dict[str, Any]:
        rho = np.array([instance["rho"] for instance in instances], np.float32)
        return {**self.collator(instances), "rho": torch.from_numpy(rho)}


class _Run:
    """What replaces functions of the script."""

    def __init__(self, script: ModuleType, schedule: AdjustmentSchedule):
        self.schedule = schedule
        self.plain = {n: getattr(script, n) for n in ("init_module", "AdamW", "run_forward_pass")}
        self.save = script.save_dataset_statistics
        self.gap: Adjustment | None = None
        self.passes = self.accumulated = 0

    def init_module(self, module_class: Any, module_name: str, cfg: Any, *given: Any, **named: Any) -> torch.nn.Module:
        module = self.plain["init_module"](module_class, module_name, cfg, *given, **named)
        if module_name == "proprio_projector":
            self.gap = attach(module, "module", self.schedule, total_steps=cfg.max_steps)  # DDP's name for it
            self.accumulated = cfg.grad_accumulation_steps
            self.passes = self.accumulated * cfg.resume_step if cfg.resume else 0
            print(self.gap)
        return module

    def optimizer(self, parameters: Any, **named: Any) -> torch.optim.Optimizer:
        assert self.gap is not None, "GAP needs use_proprio=True"
        return self.gap.watch(self.plain["AdamW"](parameters, **named))

    def run_forward_pass(self, *given: Any, batch: dict[str, Any], **named: Any) -> Any:
        if not torch.is_grad_enabled():  # validation
            return self.plain["run_forward_pass"](*given, batch=batch, **named)
        assert self.gap is not None
        step = self.passes // self.accumulated
        self.passes += 1
        with self.gap.adjusting(batch["rho"], step):
            return self.plain["run_forward_pass"](*given, batch=batch, **named)

    def save_dataset_statistics(self, statistics: dict[str, Any], *given: Any) -> None:
        from gap_vla.rlds.transforms import without_rho

        self.save({name: without_rho(one) for name, one in statistics.items()}, *given)
