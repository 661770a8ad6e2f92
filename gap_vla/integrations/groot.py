"""GAP in GR00T N1.7's training (Isaac-GR00T; the model read at 8cb8bd7, the script at 55879c2, the data at 247d603).

ρ comes from `gap_rho.parquet` in each dataset's folder, which `gap-vla annotate` writes.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.adjustment.torch import attach
from gap_vla.core.errors import ConfigError
from gap_vla.demos import lerobot_sidecar

CURRENT = AdjustmentSchedule(rho="current")


def with_gap(script: ModuleType, schedule: AdjustmentSchedule = CURRENT) -> None:
    """Makes `script.run` train with GAP on the action head's `state_encoder`.

    Args:
        script: `gr00t.experiment.experiment`, whose `Gr00tTrainer` is replaced.
    """
    script.Gr00tTrainer = gap_trainer(script.Gr00tTrainer, schedule)  # type: ignore[attr-defined]


class LabelledDataset:
    """A `ShardedSingleStepDataset` whose samples have ρ of their step, `rho`; GR00T's collator hands it on.

    Raises ConfigError: there is no ρ in its folder.
    """

    def __init__(self, dataset: Any):
        self._dataset = dataset
        path = Path(dataset.dataset_path) / lerobot_sidecar.NAME
        sidecar = lerobot_sidecar.read(path)
        if sidecar is None:
            raise ConfigError(f"there is no {path}; `gap-vla annotate {path.parent}` writes it")
        self._rho = {episode: sidecar.rho[slice(*rows)] for episode, rows in sidecar.rows.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":  # not there yet where it is unpickled
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def get_shard(self, idx: int) -> list[dict[str, Any]]:
        samples, number = self._dataset.get_shard(idx), self._dataset.episode_loader.episodes_metadata
        rho = [
            self._rho[number[episode]["episode_index"]][step]
            for episode, steps in self._dataset.sharded_episodes[idx]
            for step in steps
        ]
        return [{**sample, "rho": np.float32(value)} for sample, value in zip(samples, rho, strict=True)]


def gap_trainer(trainer: type, schedule: AdjustmentSchedule) -> type:
    """A subclass of `Gr00tTrainer` that labels its training data and trains with GAP."""

    class GapTrainer(trainer):  # type: ignore[misc]
        def __init__(self, *given: Any, train_dataset: Any, args: Any, model: Any, **named: Any):
            train_dataset.datasets = [LabelledDataset(dataset) for dataset in train_dataset.datasets]
            self.gap = attach(model, "action_head.state_encoder", schedule, total_steps=args.max_steps)
            print(self.gap)
            super().__init__(*given, train_dataset=train_dataset, args=args, model=model, **named)

        def create_optimizer(self, *given: Any) -> Any:
            return self.gap.watch(super().create_optimizer(*given))

        def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
            rho = inputs["inputs"].pop("rho", None)
            if not model.training:
                return super().compute_loss(model, inputs, *given, **named)
            with self.gap.adjusting(rho, self.state.global_step):
                return super().compute_loss(model, inputs, *given, **named)

    return GapTrainer
