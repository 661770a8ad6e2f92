"""The cells of a table in the order in which they run: seeds outermost, then tasks, then methods.

A cell is a small policy or a fine-tuned Octo; its `Kind` says how it is configured, trained and found again. A recorded
outcome is a cell's own if it was made with today's settings, code and data.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.tables.origin import changed_origin
from experiments.tables.tables import IN, OUT, Arm, Block, Table
from gap_vla.core.identity import digest
from gap_vla.core.typed_config import ConfigError
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import TrainingRun, finetune
from gap_vla.training.run_directory import RunDirectory, of_result, read_metrics
from gap_vla.training.stages import stages_of, versions
from gap_vla.training.torch import SmallConfig

ROLLOUTS = 100

DEMOS_OF_A_SEED = 1000
"""Seeds of demonstrations that are kept apart for each training seed, in tables where each has its own."""

_CONFIGS = Path(__file__).resolve().parents[2] / "finetune_configs"


def _directory(config: Any) -> Path:
    return TrainingRun(config).directory.path


def _store(config: Any) -> Path:
    return stages_of(config).store


def _origin(config: Any) -> Mapping[str, Any]:
    return versions(config.backend, config.task)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How cells of one kind are made.

    Attributes:
        configure: (task, profile, method, seed, changes, device) to the typed configuration.
        train: runs every stage of it, or goes on where it was stopped, and returns the summary; called in a process of
            its own.
        defaults: what the settings are that nobody changes, so that an option added later leaves recorded cells valid.
        stated_seconds: profile to how long a cell takes, before any has been measured.
        reads_labels: whether its outcome depends on ρ or change points.
        run_directory: where the run lies.
        store: folder of the episodes that it trains on; cells that share it wait until the first has made it.
        origin: what a cell that starts now is made from besides its settings (`gap_vla.training.stages`).
    """

    configure: Callable[[str, str, str, int, Mapping[str, Any], str], Any]
    train: Callable[[Any], dict[str, Any]]
    defaults: Callable[[], dict[str, Any]]
    stated_seconds: Mapping[str, float]
    reads_labels: Callable[[Any], bool]
    run_directory: Callable[[Any], Path] = _directory
    store: Callable[[Any], Path] = _store
    origin: Callable[[Any], Mapping[str, Any]] = _origin


@dataclasses.dataclass(frozen=True)
class Cell:
    """One policy to train and roll out: a line of a table, one training seed of it. The last four fields are what its
    `Kind` says.
    """

    table: str
    profile: str
    block: Block
    arm: Arm
    seed: int
    config: Any
    defaults: Mapping[str, Any]
    origin: Mapping[str, Any]
    reads_labels: bool

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


def plan(
    table: Table, profile: str, kind: Kind, *, seeds: Sequence[int] | None = None, device: str = "cpu"
) -> list[Cell]:
    """Every cell of a table; nothing is run. Raises ConfigError: settings that do not fit together."""
    cells = []
    defaults = kind.defaults()
    for seed in table.seeds if seeds is None else seeds:
        for block in table.blocks:
            for arm in block.arms:
                own = {"demos.seed": DEMOS_OF_A_SEED * seed} if table.own_demos else {}
                changes = {**block.changes, **own, **arm.changes}
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


def training_length(config: Mapping[str, Any]) -> int:
    """Passes over the data where the configuration counts those, otherwise steps; comparable within a profile."""
    train = config.get("train", {})
    return int(train.get("epochs") or train.get("steps") or 0)


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of everything in a configuration that can change its result."""
    return digest(of_result(config), 12)


def changed_settings(recorded: Mapping[str, Any], present: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations, in words; empty: they mean the same experiment.

    An option that did not exist when the cell was recorded must have its default now: an addition leaves recorded
    cells valid, a changed value or a vanished option does not.

    >>> changed_settings({"steps": 5}, {"steps": 5, "new": 1}, {"new": 1})
    []
    >>> changed_settings({"steps": 5, "old": 1}, {"steps": 6, "new": 2}, {"new": 1})
    ['steps 5 then, 6 now', 'old 1 then, not there now', 'new not there then, 2 now']
    """
    then, now, usual = of_result(recorded), of_result(present), of_result(defaults)
    if not then:
        return ["its settings were not recorded"]
    found = [
        f"{key} {value} then, {now.get(key, 'not there')} now" for key, value in then.items() if now.get(key) != value
    ]
    added = [key for key in now if key not in then and (key not in usual or now[key] != usual[key])]
    return [*found, *(f"{key} not there then, {now[key]} now" for key in added)]


@functools.cache
def _values(file: str, profile: str) -> Mapping[str, Any]:
    from gap_vla.cli.configured import load_config

    return dataclasses.asdict(load_config(f"{_CONFIGS / file}.py:{profile}"))


def _configured(config_type: Any, file: str, profile: str, changes: Mapping[str, Any]) -> Any:
    """The configuration of a file and profile with these changes, dotted keys to values."""
    values = copy.deepcopy({**_values(file, profile)})
    for key, value in changes.items():
        _set(values, key, value)
    return config_type.from_dict(values)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place.get(section, {})
    if last not in place:
        raise ConfigError(f"a cell changes {key}, which this configuration does not have")
    place[last] = value


def _configure_small(task: str, profile: str, method: str, seed: int, changes: Mapping[str, Any], device: str) -> Any:
    from gap_vla.sim import task_spec

    file = "small_assembly" if task_spec(task).family == "metaworld" else "small_threading"
    fixed = {"task": task, "method": method, "train.seed": seed, "eval.workers": 1, "train.device": device}
    if profile == "debug":
        kept = [key for key in changes if not key.startswith("demos.") or key == "demos.camera"]
        changes = {key: changes[key] for key in kept}
    else:
        fixed |= {"eval.episodes": ROLLOUTS, "eval.variants": (IN, OUT)}
    return _configured(SmallConfig, file, profile, {**fixed, **changes})


def _train_small(config: Any) -> dict[str, Any]:
    summary = finetune(config, resume=True, wait=True)
    return {**summary, "gradients": first_half_means(_directory(config), summary["steps"])}


def first_half_means(run: Path, steps: int) -> dict[str, float]:
    """Mean of every `branch/…` measurement over the logged steps 1 to `steps` / 2 (GAP's usual window)."""
    rows = [row for row in read_metrics(RunDirectory(run).metrics) if 0 < row["step"] <= steps / 2]
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("branch/"))
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: round(sum(of_name) / len(of_name), 6) for name, of_name in values.items()}


def _configure_octo(task: str, profile: str, method: str, seed: int, changes: Mapping[str, Any], device: str) -> Any:
    file = "threading" if profile == "paper" else task
    fixed = {"task": task, "method": method, "train.seed": seed, "eval.workers": 1}
    if profile != "debug":
        fixed["eval.episodes"] = ROLLOUTS
    return _configured(FinetuneConfig, file, "default" if profile == "cpu" else profile, {**fixed, **changes})


KINDS: dict[str, Kind] = {
    "small": Kind(
        _configure_small,
        _train_small,
        lambda: SmallConfig("assembly").to_dict(),
        {"cpu": 20 * 60.0, "paper": 2 * 3600.0, "debug": 60.0},
        lambda config: config.schedule.needs_rho or config.how.needs_change_points,
    ),
    "octo": Kind(
        _configure_octo,
        functools.partial(finetune, resume=True, wait=True),
        lambda: FinetuneConfig("assembly").to_dict(),
        {"cpu": 15 * 60.0, "paper": 24 * 3600.0, "debug": 90.0},
        lambda config: "rho" in config.needed_labels,
    ),
}
