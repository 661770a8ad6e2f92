"""What a cell can be: a small policy or a fine-tuned Octo; how each is configured, trained and found again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from experiments.tables.tables import IN, OUT
from gap_vla.core.run_directory import RunDirectory, read_metrics
from gap_vla.core.typed_config import ConfigError, choose
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import Run, finetune
from gap_vla.training.stages import expected_origin, stages_of
from gap_vla.training.torch import SmallConfig

PROFILES = ("cpu", "paper", "debug")
ROLLOUTS = 100

_CONFIGS = Path(__file__).resolve().parents[2] / "finetune_configs"


class CellConfig(Protocol):
    """A typed, frozen configuration of a run."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Kind:
    """How cells of one kind are made.

    Attributes:
        configure: (task, profile, method, seed, changes, device) to the typed configuration.
        train: runs every stage of it, or goes on where it was stopped, and returns the summary; called in a process of
            its own.
        run_directory: where the run lies.
        defaults: what the settings are that nobody changes, so that an option added later leaves recorded cells valid.
        store: folder of the episodes that it trains on; cells that share it wait until the first has made it.
        stated_seconds: profile to how long a cell takes, before any has been measured.
        origin: what a cell that starts now is made from besides its settings (`gap_vla.training.stages`).
        reads_labels: whether its outcome depends on ρ or change points.
    """

    configure: Callable[[str, str, str, int, Mapping[str, Any], str], CellConfig]
    train: Callable[[Any], dict[str, Any]]
    run_directory: Callable[[Any], Path]
    defaults: Callable[[], dict[str, Any]]
    store: Callable[[Any], Path]
    stated_seconds: Mapping[str, float]
    origin: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    reads_labels: Callable[[Any], bool] = lambda config: True


def _values(file: str, profile: str) -> Any:
    from gap_vla.cli.configured import load_config

    return load_config(f"{_CONFIGS / file}.py:{profile}").to_dict()


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place.get(section, {})
    if last not in place:
        raise ConfigError(f"a cell changes {key}, which this configuration does not have")
    place[last] = value


def _family_file(task: str, metaworld: str, robosuite: str) -> str:
    from gap_vla.sim import task_spec

    return metaworld if task_spec(task).family == "metaworld" else robosuite


def _configure_small(
    task: str, profile: str, method: str, seed: int, changes: Mapping[str, Any], device: str
) -> CellConfig:
    values = _values(_family_file(task, "small_assembly", "small_threading"), profile)
    fixed: dict[str, Any] = {"task": task, "method": method, "train.seed": seed, "eval.workers": 1}
    fixed["train.device"] = device
    if profile == "debug":
        changes = {key: value for key, value in changes.items() if not key.startswith("demos.")}
    else:
        fixed |= {"eval.episodes": ROLLOUTS, "eval.variants": (IN, OUT)}
    for key, value in {**fixed, **changes}.items():
        _set(values, key, value)
    return SmallConfig.from_dict(values)


def _train_small(config: Any) -> dict[str, Any]:
    summary = finetune(config, resume=True)
    return {**summary, "gradients": first_half_means(_directory(config), summary["steps"])}


def first_half_means(run: Path, steps: int) -> dict[str, float]:
    """Mean of every `branch/…` measurement over the logged steps 1 to `steps` / 2 (GAP's usual window)."""
    rows = [row for row in read_metrics(RunDirectory(run).metrics) if 0 < row["step"] <= steps / 2]
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("branch/"))
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: round(sum(of_name) / len(of_name), 6) for name, of_name in values.items()}


def _configure_octo(
    task: str, profile: str, method: str, seed: int, changes: Mapping[str, Any], device: str
) -> CellConfig:
    file = "threading" if profile == "paper" else task
    values = _values(file, "default" if profile == "cpu" else profile)
    fixed: dict[str, Any] = {"task": task, "method": method, "train.seed": seed, "eval.workers": 1}
    if profile != "debug":
        fixed["eval.episodes"] = ROLLOUTS
    for key, value in {**fixed, **changes}.items():
        _set(values, key, value)
    return FinetuneConfig.from_dict(values)


def _train_octo(config: Any) -> dict[str, Any]:
    return finetune(config, resume=True)


def _directory(config: Any) -> Path:
    return Run(config).directory.path


def _store(config: Any) -> Path:
    return stages_of(config).store


def _origin(config: Any) -> Mapping[str, Any]:
    return expected_origin(config.backend, config.task, _store(config))


def _reads_labels(config: Any) -> bool:
    return config.reads_labels


KINDS: dict[str, Kind] = {
    "small": Kind(
        _configure_small,
        _train_small,
        _directory,
        lambda: SmallConfig("assembly").to_dict(),
        _store,
        {"cpu": 20 * 60.0, "paper": 2 * 3600.0, "debug": 60.0},
        _origin,
        _reads_labels,
    ),
    "octo": Kind(
        _configure_octo,
        _train_octo,
        _directory,
        lambda: FinetuneConfig("assembly").to_dict(),
        _store,
        {"cpu": 15 * 60.0, "paper": 24 * 3600.0, "debug": 90.0},
        _origin,
        _reads_labels,
    ),
}


def find_kind(name: str) -> Kind:
    return KINDS[choose(name, tuple(KINDS), "kind of cell")]
