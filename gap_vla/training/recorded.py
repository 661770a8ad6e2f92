"""What named data say of how they were recorded, where their policy will be rolled out otherwise."""

from __future__ import annotations

import contextlib
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, real_path
from gap_vla.core.typed_config import ConfigError
from gap_vla.demos.hdf5_members import attributes_of_data, simulator_of
from gap_vla.rlds import EpisodeStore
from gap_vla.rlds.account import is_marked
from gap_vla.rlds.checking.declared_checks import RATES
from gap_vla.rollouts.recordings import statements_in
from gap_vla.sim import task_spec
from gap_vla.sim.specs import TASK_NAMES
from gap_vla.training.config import Experiment

_PLACES = re.compile(r"(?!.*(?:delta|vel|d[xyz]))(?:[xyz]|(.*_)?(motor|joint)(_?\w+)?|.*\.pos)", re.IGNORECASE)
"""Names of actions that are places of the hand, or of joints; the tasks' own are differences of the hand's pose."""


def notes_on_data(config: Experiment, stores: Sequence[EpisodeStore]) -> list[str]:
    """Lines on named data if rollouts of the task have another number of steps a second, or take other actions, and on
    datasets of others that nobody has checked.

    Args:
        stores: of what is trained on and, in its order, of `data.mixture`, as far as they are there.

    Raises:
        ConfigError: an episode of `data.rlds` names another of our tasks.
    """
    datasets = [config.data.rlds, *dict(config.data.mixture)]
    notes, named = [], [path for path in datasets if path]
    if others := [path for path in named if not is_marked(Path(path)) and not _is_checked(Path(path))]:
        look = " and ".join(f"`gap-vla check-dataset {path}`" for path in others)
        notes.append(f"note: {look} looks for contradictions in data of others, which training does not")
    for path, store in zip(datasets[:1], stores) if config.data.rlds else ():
        about = [one["metadata"] for split in store.splits.values() for one in split.episodes]
        tasks = {str(one["task"]) for one in about if one.get("task") in TASK_NAMES} - {config.task}
        if tasks:
            raise ConfigError(f"{path} holds demonstrations of {min(tasks)}, not of {config.task}: give data of that")
    if not config.eval.episodes:
        return notes
    rates, absolute = _recorded_as(config)
    told = {config.demos.path: rates} | {path: _of_store(store) for path, store in zip(datasets, stores) if path}
    hz = task_spec(config.task).control_hz
    for path, said in told.items():
        other = {key: rate for key, rate in said.items() if abs(rate - hz) > hz / 100}
        for key, rate in [*other.items()][:1]:
            more = "".join(f"; {name} {value:g}" for name, value in said.items() if name != key and value != rate)
            pace = f"{path} has {rate:g} steps a second ({key}{more}), rollouts of {config.task} {hz}"
            notes.append(f"note: {pace}: the policy will act at another pace than it was shown")
    if absolute:
        ours = f"rollouts of {config.task} take differences of the hand's pose"
        notes.append(f"note: {config.demos.path}: {absolute}; {ours}")
    return notes


def _is_checked(version: Path) -> bool:
    """Whether check-dataset, in the place of its page, has looked at all of a dataset since it was written."""
    account = Path(f"{version.parent.name}-{version.name}-check") / "check.json"
    with contextlib.suppress(UserError, OSError, ValueError):
        said = Section.read(account, ConfigError)
        splits = Section.read(version / "dataset_info.json", ConfigError).list("splits", Section.section)
        counts = [int(count) for split in splits for count in split.values.get("shardLengths", ())]
        newest = max(file.stat().st_mtime for file in version.iterdir())
        of_this = real_path(said.text("dataset")) == real_path(version)
        return of_this and said.values.get("episodes") == sum(counts) and account.stat().st_mtime >= newest
    return False


def _recorded_as(config: Experiment) -> tuple[dict[str, float], str]:
    """What `demos.path` says of its steps a second, by key, and, in words, of actions that are no differences."""
    path = Path(config.demos.path)
    if not config.demos.path or config.data.rlds:
        return {}, ""
    return _of_lerobot(path) if config.demos.kind == "lerobot" else _of_files(path)


def _of_files(path: Path) -> tuple[dict[str, float], str]:
    settings = simulator_of(attributes_of_data(path)).get("env_kwargs")
    settings = settings if isinstance(settings, Mapping) else {}
    found = [*statements_in(path, RATES), *(("env_args", *one) for one in settings.items() if one[0] in RATES)]
    absolute = next(filter(None, map(_absolute, _controllers(settings.get("controller_configs")))), "")
    return _rates(found), f"its actions are absolute ({absolute})" if absolute else ""


def _of_store(store: EpisodeStore) -> dict[str, float]:
    """What a dataset says of its steps a second, in its own metadata and in those of its episodes."""
    told = [("metadata.json", *one) for one in store.metadata.items()]
    for name, split in store.splits.items():
        for index, episode in enumerate(split.episodes):
            told += [(f"{name}[{index}]", *one) for one in episode["metadata"].items()]
    return _rates(one for one in told if one[1].lower() in RATES)


def _rates(told: Iterable[tuple[str, str, Any]]) -> dict[str, float]:
    """Of places, names and values those that may be steps a second, by name and place; each once."""
    found: dict[tuple[str, float], str] = {}
    for where, key, rate in told:
        if isinstance(rate, numbers.Real) and not isinstance(rate, bool) and 0 < float(rate) < 1e5:
            found.setdefault((key, float(rate)), f"{key} of {where}")
    return {label: rate for (_, rate), label in found.items()}


def _controllers(said: Any) -> Iterator[Mapping[str, Any]]:
    """robosuite's settings of each arm: one for all, a list, or, since 1.5, by parts of the body."""
    for one in said if isinstance(said, list) else [said]:
        if isinstance(one, Mapping):
            yield one
            parts = one.get("body_parts")
            yield from (
                (part for part in parts.values() if isinstance(part, Mapping)) if isinstance(parts, Mapping) else ()
            )


def _absolute(controller: Mapping[str, Any]) -> str:
    if controller.get("control_delta") is False:
        return "control_delta is false"
    return "input_type is absolute" if controller.get("input_type") == "absolute" else ""


def _of_lerobot(path: Path) -> tuple[dict[str, float], str]:
    info = Section.read(path / "meta" / "info.json", ConfigError)
    names: Any = info.section("features", {}).section("action", {}).values.get("names")
    if isinstance(names, Mapping):  # as {"motors": [...]}
        names = next(iter(names.values()), ())
    places = [name for name in names if _PLACES.fullmatch(str(name))] if isinstance(names, list) else []
    absolute = f"its actions are called {', '.join(map(str, places[:3]))}" if len(places) > 2 else ""
    return {"fps": info.finite("fps", 0.01, 1e5)}, absolute
