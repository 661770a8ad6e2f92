"""The data of an experiment: where each stage lies, how it is made, and whether it fits the configuration.

A stage's folder carries the hash of the settings that made it, so other settings never meet the same data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.core.errors import ConfigError
from gap_vla.core.identity import digest
from gap_vla.core.progress import Agenda
from gap_vla.demos.fields import explicit
from gap_vla.demos.source import Source, open_source
from gap_vla.phases.methods import LABELS_VERSION
from gap_vla.rlds.store import EpisodeStore
from gap_vla.sim.specs import TASK_NAMES, task_spec
from gap_vla.training.config import DemosConfig, Experiment

if TYPE_CHECKING:
    Shapes = Mapping[str, Sequence[int]]

TRAINING_VERSION = {"small": 2, "octo": 2}
"""By backend. Raise it whenever a change of code gives the same configuration and data other parameters or other
outcomes of rollouts than another machine's rounding does. Runs get other directories then, and recorded cells of tables
become stale.

2: normalisation statistics are those of the training episodes.
"""


@dataclasses.dataclass(frozen=True)
class Stages:
    """Where each stage of one configuration lies, and what it is made of."""

    demos: Path
    rlds: Path  # RLDS dataset, …/name/version
    store: Path  # decoded, memory-mapped episodes
    rlds_identity: Mapping[str, Any]
    mixture: Mapping[Path, Path] = dataclasses.field(default_factory=dict)  # further RLDS datasets and their stores

    def made_from(self, backend: str) -> dict[str, Any]:
        """What the data are made from, and the version of the code that trains on them."""
        mixture = {"mixture": [str(path.absolute()) for path in self.mixture]} if self.mixture else {}
        return {**self.rlds_identity, **mixture, "training_version": TRAINING_VERSION[backend]}


def stages_of(config: Experiment) -> Stages:
    """The stages that a configuration needs; nothing is made.

    Raises:
        ConfigError: a named demonstration file or dataset does not exist.
    """
    root = Path(config.data.root)
    if config.data.rlds:
        demos, rlds = Path(), Path(config.data.rlds)
        rlds_identity = _identity(rlds, "data.rlds") | _fields(config)
        name = f"{config.task}-{digest(rlds_identity)}"
    else:
        demos, demos_identity = _demos(config, root)
        phases = {"method": config.phases.method, "seed": config.phases.seed, "options": config.phases.options}
        rlds_identity = {
            "demos": demos_identity,
            "phases": {**phases, "labels_version": LABELS_VERSION},
            "val_fraction": config.data.val_fraction,
        }
        name = f"{config.task}-{digest(rlds_identity)}"
        rlds = root / "rlds" / name / dataset_name(config.task) / "1.0.0"
    mixture = {}
    for path, _ in config.data.mixture:
        identity = _identity(Path(path), "data.mixture") | _fields(config)
        mixture[Path(path)] = root / "store" / f"{config.task}-{digest(identity)}"
    if len({rlds, *mixture}) <= len(config.data.mixture):
        raise ConfigError(f"data.mixture is {config.data.mixture}, beside {rlds}; name each dataset once")
    return Stages(demos, rlds, root / "store" / name, rlds_identity, mixture)


def dataset_name(task: str) -> str:
    """A task's name as TFDS wants names of datasets."""
    return re.sub(r"\W+", "_", task.lower(), flags=re.ASCII)


def _demos(config: Experiment, root: Path) -> tuple[Path, dict[str, Any]]:
    """Where demonstrations lie, and what identifies them."""
    own = config.demos
    if own.path:
        return Path(own.path), {"path": str(Path(own.path).absolute()), "files": _files(config), **_fields(config)}
    pictures = task_spec(config.task).pictures_version
    identity = {
        "task": config.task,
        **({"pictures_version": pictures} if pictures > 1 else {}),
        **{key: getattr(own, key) for key in ("episodes", "seed", "image_size", "cameras", "action_noise")},
        **({"camera": own.camera} if own.camera != DemosConfig.camera else {}),
    }
    return root / "demos" / f"{config.task}-{digest(identity)}" / "demos.hdf5", identity


def _files(config: Experiment) -> str:
    """Changes when a demonstration file does; none of them is read."""
    path = Path(config.demos.path)
    if not path.exists():
        raise ConfigError(f"demos.path is {config.demos.path!r}, which does not exist")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return digest({str(file.relative_to(path)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files})


def _fields(config: Experiment) -> dict[str, Any]:
    """Names of fields decide what is read of the same files."""
    return {"fields": said} if (said := explicit(config.data.fields)) else {}


def _identity(path: Path, key: str) -> dict[str, Any]:
    """The identity of an RLDS dataset that is there."""
    if not (path / "dataset_info.json").exists():
        raise ConfigError(f"{key} is {str(path)!r}, which holds no RLDS dataset (dataset_info.json)")
    return {"rlds": str(path.absolute())}


def named_source(config: Experiment) -> Source:
    """The data of others that the configuration names: `data.rlds`, or else `demos.path`."""
    path = Path(config.data.rlds or config.demos.path)
    given = config.demos.kind if not config.data.rlds and config.demos.kind != DemosConfig.kind else None
    return open_source(path, config.data.fields, given)


# ---- making what is missing


def collect(config: Experiment, stages: Stages) -> None:
    """Collects the demonstrations of the expert, if they are not there."""
    if config.demos.path or config.data.rlds:
        return
    with making(stages):
        _collect(config, stages)


def _collect(config: Experiment, stages: Stages) -> None:
    if stages.demos.exists():
        print(f"collect: reusing {stages.demos}", flush=True)
        return
    from gap_vla.sim.collection import collect_demos

    Agenda.begin("demonstrations")
    own = config.demos
    print(f"collect: {own.episodes} demonstrations of {config.task} → {stages.demos}", flush=True)
    collect_demos(
        config.task,
        own.episodes,
        stages.demos,
        seed=own.seed,
        image_size=own.image_size,
        cameras=own.cameras,
        camera=own.camera,
        action_noise=own.action_noise,
        workers=config.eval.workers,
    )


def open_store(config: Experiment, stages: Stages) -> EpisodeStore:
    """The episode store of a configuration; what is missing of demonstrations, dataset and store is made.

    Where the store is there, the others need not be: who copies it needs no TensorFlow and no simulator.
    """
    if stages.rlds.exists():
        print(f"dataset: reusing {stages.rlds}", flush=True)
    elif (stages.store / "store.json").exists():
        print(f"dataset: only its store is here, {stages.store}", flush=True)
        return EpisodeStore.open(stages.store)
    with making(stages):
        if not stages.rlds.exists():
            if not config.demos.path:
                _collect(config, stages)
            _convert(config, stages)
        return _build(config, stages.rlds, stages.store, config.data.val_fraction)


def open_mixture(config: Experiment, stages: Stages) -> list[EpisodeStore]:
    """The episode stores of `data.mixture` in its order, made if they are missing."""
    return [_build(config, path, store, val_fraction=0.0) for path, store in stages.mixture.items()]


def _convert(config: Experiment, stages: Stages) -> None:
    from gap_vla.rlds.convert import build_dataset

    Agenda.begin("phases and dataset")
    print(f"dataset: finding phases and writing {stages.rlds}", flush=True)
    build_dataset(
        named_source(config) if config.demos.path else open_source(stages.demos, kind="robomimic_hdf5"),
        stages.rlds.parents[1],
        stages.rlds.parent.name,
        method=config.phases.method,
        seed=config.phases.seed,
        options=config.phases.options,
        val_fraction=config.data.val_fraction,
        identity=dict(stages.rlds_identity),
    )


def _build(config: Experiment, version: Path, store: Path, val_fraction: float) -> EpisodeStore:
    fields = config.data.fields if config.data.rlds else None  # otherwise they are names in `demos.path`
    return EpisodeStore.build(version, store, fields=fields, val_fraction=val_fraction)


@contextlib.contextmanager
def making(stages: Stages) -> Iterator[None]:
    """Of runs that are started side by side, one makes the data and the others wait."""
    import filelock

    stages.store.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(stages.store.with_name(f".{stages.store.name}.making")):
        yield


# ---- whether the data fit


def shapes_of(config: Experiment, stages: Stages) -> Shapes:
    """The fields of a step of what is trained on, with their shapes: of the store, else of the first episode, else as
    the simulator will make them."""
    if (stages.store / "store.json").exists():
        fields = EpisodeStore.open(stages.store).split("train").fields
        return {name: array.shape[1:] for name, array in fields.items()}
    labels: dict[str, tuple[int, ...]] = {"rho": (), "change_point": ()}
    if not (config.data.rlds or config.demos.path):
        task, size = task_spec(config.task), config.demos.image_size
        widths = {"proprio": (task.proprio_dim,), "action": (task.action_dim,), "phase": ()}
        return {**widths, **labels, **{f"image_{camera}": (size, size, 3) for camera in config.demos.cameras}}
    first = named_source(config).read(0)
    found = {name: array.shape[1:] for name, array in first.arrays.items()}
    return found if config.data.rlds or config.phases.method == "none" else {**found, **labels}


def require_fitting(config: Experiment, where: Path | str, shapes: Shapes) -> None:
    """Checks that steps have what the configuration trains with, and what rollouts of the task will show and take.

    Raises:
        ConfigError: says what is missing or differs, and what to do.
    """
    for label in config.needed_labels:
        if label not in shapes:
            made = "`gap-vla annotate`" if config.data.rlds else "another phases.method"
            how = "a column of that name" if label == "phase" else made
            raise ConfigError(f"{where} has no {label}, which method {config.method} needs; {how} adds it")
    for camera in config.demos.cameras:
        if f"image_{camera}" not in shapes:
            known = ", ".join(name for name in shapes if name.startswith("image_")) or "none"
            raise ConfigError(
                f"{where} has no image_{camera} (demos.cameras); it has {known}: name the cameras that it has, or say "
                f"which picture is which with --config.data.fields.images.image_{camera}=NAME"
            )
    if not config.rollouts:
        return
    task, size = task_spec(config.task), config.demos.image_size
    rollouts: dict[str, tuple[int, ...]] = {"proprio": (task.proprio_dim,), "action": (task.action_dim,)}
    rollouts |= {f"image_{camera}": (size, size, 3) for camera in config.demos.cameras}
    for name, shape in rollouts.items():
        if tuple(shapes[name]) != shape:
            raise ConfigError(
                f"{where}: {name} is {list(shapes[name])} a step, and rollouts of {config.task} show or take "
                f"{list(shape)}; train without rollouts (--config.eval.episodes=0), or match them"
                f"{' (demos.image_size)' if name.startswith('image_') else ''}"
            )


def versions(backend: str, task: str) -> dict[str, Any]:
    """The versions of the code that a run of this backend (`small` or `octo`) depends on."""
    pictures = {"pictures_version": task_spec(task).pictures_version} if task in TASK_NAMES else {}
    return {"training_version": TRAINING_VERSION[backend], "labels_version": LABELS_VERSION, **pictures}
