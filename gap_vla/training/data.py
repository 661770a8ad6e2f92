"""The data of an experiment: where each stage lies, how it is made, and whether it fits the configuration.

A stage's folder carries the hash of the settings that made it, so other settings never meet the same data.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import ConfigError
from gap_vla.core.identity import digest
from gap_vla.core.progress import Agenda
from gap_vla.demos.fields import explicit
from gap_vla.demos.source import Source, local_path, open_source
from gap_vla.phases.methods import LABELS_VERSION
from gap_vla.rlds.store import EpisodeStore, StoreSplit
from gap_vla.sim.specs import TASK_NAMES, task_spec
from gap_vla.training.config import DemosConfig, Experiment
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.torch import SmallConfig

TRAINING_VERSION = {"small": 2, "octo": 2}
"""By backend. Raise it whenever a change of code gives the same configuration and data other parameters or other
outcomes of rollouts than another machine's rounding does. Runs get other directories then, and recorded cells of tables
become stale.

2: normalisation statistics are those of the training episodes.
"""


class Stages:
    """Where each stage of a configuration lies, and what it is made of.

    Attributes:
        given: the user's data, `data.rlds` or `demos.path`; empty where the expert collects demonstrations.
        demos: file or folder of demonstrations.
        rlds: the RLDS dataset, …/name/version.
        store: its decoded, memory-mapped episodes.
        identity: what the dataset is made from.

    Raises:
        OSError: a named demonstration file or dataset does not exist.
    """

    def __init__(self, config: Experiment):
        self.config = config
        self.given = config.data.rlds or (config.demos.path and str(local_path(config.demos.path)))
        self.root = Path(config.data.root)
        said = explicit(config.data.fields)
        self._fields = {"fields": said} if said else {}  # they decide what is read of the same files
        if config.data.rlds:
            self.demos, self.identity = Path(), self._identity_of_rlds(Path(config.data.rlds))
        else:
            self.demos, demos_identity = self._demos()
            phases = {"method": config.phases.method, "seed": config.phases.seed, "options": config.phases.options}
            self.identity = {
                "demos": demos_identity,
                "phases": {**phases, "labels_version": LABELS_VERSION},
                "val_fraction": config.data.val_fraction,
            }
        name = f"{config.task}-{digest(self.identity)}"
        made = self.root / "rlds" / name / dataset_name(config.task) / "1.0.0"
        self.rlds = Path(config.data.rlds) if config.data.rlds else made
        self.store = self.root / "store" / name

    def _identity_of_rlds(self, path: Path) -> dict[str, Any]:
        (path / "dataset_info.json").stat()
        return {"rlds": str(path.absolute()), **self._fields}

    def _demos(self) -> tuple[Path, dict[str, Any]]:
        """Where demonstrations lie, and what identifies them."""
        task, own = self.config.task, self.config.demos
        if own.path:
            path = Path(self.given)
            return path, {"path": str(path.absolute()), "files": _files_of(path), **self._fields}
        pictures = task_spec(task).pictures_version
        identity = {
            "task": task,
            **({"pictures_version": pictures} if pictures > 1 else {}),
            **{key: getattr(own, key) for key in ("episodes", "seed", "image_size", "cameras", "action_noise")},
            **({"camera": own.camera} if own.camera != DemosConfig.camera else {}),
        }
        return self.root / "demos" / f"{task}-{digest(identity)}" / "demos.hdf5", identity

    def made_from(self) -> dict[str, Any]:
        """What the data are made from, and the version of the code that trains on them."""
        return {**self.identity, "training_version": TRAINING_VERSION[self.config.backend]}

    def source(self) -> Source:
        """The user's data."""
        kind = self.config.demos.kind
        told = None if self.config.data.rlds or kind == DemosConfig.kind else kind
        return open_source(Path(self.given), self.config.data.fields, told)

    # ---- making what is missing

    def open(self) -> EpisodeStore:
        """The episode store; what is missing of demonstrations, dataset and store is made.

        Where the store is there, the others need not be: who copies it needs no TensorFlow and no simulator.
        """
        if self.rlds.exists():
            print(f"dataset: reusing {self.rlds}", flush=True)
        elif (self.store / "store.json").exists():
            print(f"dataset: only its store is here, {self.store}", flush=True)
            return EpisodeStore.open(self.store)
        self.store.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.store.with_name(f".{self.store.name}.making")):  # runs beside this one wait
            if not self.rlds.exists():
                self._convert()
            fields = self.config.data.fields if self.config.data.rlds else None  # else they are names in `demos.path`
            return EpisodeStore.build(self.rlds, self.store, fields=fields, val_fraction=self.config.data.val_fraction)

    def _collect(self) -> None:
        if self.demos.exists():
            print(f"collect: reusing {self.demos}", flush=True)
            return
        from gap_vla.sim.collection import collect_demos

        Agenda.begin("demonstrations")
        task, own = self.config.task, self.config.demos
        print(f"collect: {own.episodes} demonstrations of {task} → {self.demos}", flush=True)
        collect_demos(
            task,
            own.episodes,
            self.demos,
            seed=own.seed,
            image_size=own.image_size,
            cameras=own.cameras,
            camera=own.camera,
            action_noise=own.action_noise,
            workers=self.config.eval.workers,
        )

    def _convert(self) -> None:
        from gap_vla.rlds.convert import build_dataset

        if not self.given:
            self._collect()
        Agenda.begin("phases and dataset")
        print(f"dataset: finding phases and writing {self.rlds}", flush=True)
        phases = self.config.phases
        build_dataset(
            self.source() if self.given else open_source(self.demos, kind="robomimic_hdf5"),
            self.rlds.parents[1],
            self.rlds.parent.name,
            method=phases.method,
            seed=phases.seed,
            options=phases.options,
            val_fraction=self.config.data.val_fraction,
            identity=dict(self.identity),
        )

    # ---- whether the data fit

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The fields of a step of what is trained on, with their shapes: of the store, else of the first episode, else
        as the simulator will make them."""
        if (self.store / "store.json").exists():
            return shapes_in(EpisodeStore.open(self.store).split("train").fields)
        labels: dict[str, tuple[int, ...]] = {"rho": (), "change_point": ()}
        if not self.given:
            return {**_simulated(self.config), **labels, "phase": ()}
        found = shapes_in(self.source().read(0).arrays)
        return found if self.config.data.rlds or self.config.phases.method == "none" else {**found, **labels}

    def require_fitting(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Checks that steps have what the configuration trains with, and what rollouts of the task will show and take.

        Raises:
            ConfigError: says what is missing or differs, and what to do.
        """
        config, where = self.config, self.given or self.demos
        for label in config.needed_labels:
            if label not in shapes:
                made = "`gap-vla annotate`" if config.data.rlds else "another phases.method"
                how = "a column of that name" if label == "phase" else made
                raise ConfigError(f"{where} has no {label}, which method {config.method} needs; {how} adds it")
        for camera in config.demos.cameras:
            if f"image_{camera}" not in shapes:
                known = ", ".join(name for name in shapes if name.startswith("image_")) or "none"
                raise ConfigError(
                    f"{where} has no image_{camera} (demos.cameras); it has {known}: name the cameras that it has, or "
                    f"say which picture is which with --config.data.fields.images.image_{camera}=NAME"
                )
        for name, shape in _simulated(config).items() if config.rollouts else ():
            if tuple(shapes[name]) != shape:
                raise ConfigError(
                    f"{where}: {name} is {list(shapes[name])} a step, and rollouts of {config.task} show or take "
                    f"{list(shape)}; train without rollouts (--config.eval.episodes=0), or match them"
                    f"{' (demos.image_size)' if name.startswith('image_') else ''}"
                )


def dataset_name(task: str) -> str:
    """A task's name as TFDS wants names of datasets."""
    return re.sub(r"\W+", "_", task.lower(), flags=re.ASCII)


def _files_of(path: Path) -> str:
    """Changes when a demonstration file does; none of them is read."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return digest({str(file.relative_to(path)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files})


def shapes_in(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of a step, from arrays of whole episodes."""
    return {name: array.shape[1:] for name, array in arrays.items()}


def _simulated(config: Experiment) -> dict[str, tuple[int, ...]]:
    """A step's state, action and pictures as the simulator has them."""
    task, size = task_spec(config.task), config.demos.image_size
    widths: dict[str, tuple[int, ...]] = {"proprio": (task.proprio_dim,), "action": (task.action_dim,)}
    return widths | {f"image_{camera}": (size, size, 3) for camera in config.demos.cameras}


def versions(backend: str, task: str) -> dict[str, Any]:
    """The versions of the code that a run of this backend (`small` or `octo`) depends on."""
    pictures = {"pictures_version": task_spec(task).pictures_version} if task in TASK_NAMES else {}
    return {"training_version": TRAINING_VERSION[backend], "labels_version": LABELS_VERSION, **pictures}


def has_rho(store: EpisodeStore) -> bool:
    """Whether every split carries ρ."""
    return all("rho" in split.fields for split in store.splits.values())


def describe_store(store: EpisodeStore) -> str:
    """One line on the data: episodes, steps, change points, ρ."""
    splits = store.splits.values()
    steps = sum(split.steps for split in splits)
    episodes = sum(len(split) for split in splits)
    parts = [f"dataset: {' + '.join(f'{len(split)} {name}' for name, split in store.splits.items())} episodes"]
    parts.append(f"{steps} steps")
    if has_rho(store):
        points = sum(int(split.fields["change_point"].sum()) for split in splits) / episodes
        rho = sum(float(split.fields["rho"].sum()) for split in splits) / steps
        parts.append(f"{points:.1f} change points an episode, mean ρ {rho:.3f}")
    return ", ".join(parts)


def training_rho(run: Any) -> tuple[StoreSplit, Float[np.ndarray, " S"]] | None:
    """The store's training split and ρ of its steps as a run used it; None where the store is not here or the method
    uses no ρ. Nothing is written.

    Args:
        run: as `gap_vla.report.runs` reads it, with `path`, `config`, `summary` and whether it is `small`.
    """
    config: Experiment = (SmallConfig if run.small else FinetuneConfig).from_dict(run.config)
    if not config.schedule.needs_rho or not run.summary:
        return None
    dataset = run.summary.get("dataset", {})
    here = Path(dataset.get("store", "")) / "store.json"
    store = EpisodeStore.open(here.parent) if here.is_file() else None
    if store is None or dataset.get("hash", store.source_hash) != store.source_hash:
        print(f"note: the data of {run.path} are not here as it was trained on them", file=sys.stderr)
        return None
    split = store.split("train")
    if run.small:
        from gap_vla.policies.windows import rho_of  # loads torch

        return split, rho_of(config, store, keep=False)["train"]
    return (split, np.asarray(split.fields["rho"])) if "rho" in split.fields else None
