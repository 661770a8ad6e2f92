"""The queue of a table, in the order in which it runs: seeds outermost, then tasks, then methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from experiments.tables.kinds import PROFILES, Kind
from experiments.tables.settings import changed_origin, changed_settings, config_hash, training_length
from experiments.tables.tables import Arm, Block, Table
from gap_vla.core.typed_config import ConfigError, choose


@dataclasses.dataclass(frozen=True)
class Cell:
    """One policy to train and roll out: a line of a table, one training seed of it.

    Attributes:
        config: typed configuration of the run.
        defaults: settings that nobody changed; see `changed_settings`.
        origin: what else makes the outcome, as of now (`gap_vla.training.origin`).
        reads_labels: whether the outcome depends on ρ or change points.
    """

    table: str
    profile: str
    block: Block
    arm: Arm
    seed: int
    config: Any
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reads_labels: bool = True

    @property
    def name(self) -> str:
        """Unique within the table and profile; the ledger's file is called so."""
        return f"{self.block.name}-{self.arm.name}-seed{self.seed}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        return self.config.to_dict()

    @cached_property
    def hash(self) -> str:
        return config_hash(self.settings)

    def why_stale(self, config: Mapping[str, Any], origin: Mapping[str, Any]) -> list[str]:
        """Why an outcome of these settings and this origin is not this cell's, in words; empty: it is."""
        settings = changed_settings(config, self.settings, self.defaults)
        return [*settings, *changed_origin(origin, self.origin, self.reads_labels)]

    @property
    def length(self) -> int:
        return training_length(self.settings)


def plan(
    table: Table, profile: str, kind: Kind, *, seeds: Sequence[int] | None = None, device: str = "cpu"
) -> list[Cell]:
    """Every cell of a table; nothing is run.

    Raises:
        ConfigError: an unknown profile, or settings that do not fit together, before anything is trained.
    """
    choose(profile, PROFILES, "profile")
    cells = []
    defaults = kind.defaults()
    for seed in table.seeds if seeds is None else seeds:
        for block in table.blocks:
            for arm in block.arms:
                changes = {**block.changes, **arm.changes}
                try:
                    config = kind.configure(block.task, profile, arm.method, seed, changes, device)
                except ConfigError as error:
                    where = f"table {table.name}, {block.name}, {arm.name}"
                    raise ConfigError(f"{where}: {error}") from None
                made_from, reads = kind.origin(config), kind.reads_labels(config)
                cells.append(Cell(table.name, profile, block, arm, seed, config, defaults, made_from, reads))
    names = [cell.name for cell in cells]
    for twice in {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"table {table.name} has two cells called {twice}; give each seed once")
    return cells
