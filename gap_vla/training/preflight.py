"""What can be known before any work begins, and refused then: folders, data, devices, memory, disk.

None of it takes longer than a second or two, and nothing is made.

Estimates of memory and disk (`Experiment.memory`, and here) leave out what is small and are rather too low than too
high, so that what is refused could not have run. A demonstration has about half as many steps as the task's horizon; an
RLDS dataset, compressed, takes a third of its store.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from gap_vla.core.foreign import Section, refusing
from gap_vla.core.outputs import claim, require_apart
from gap_vla.core.resources import available_memory, require_disk, require_memory, require_writable, shown
from gap_vla.core.run_directory import RunDirectory, killed_saves
from gap_vla.core.typed_config import ConfigError
from gap_vla.demos import open_source
from gap_vla.drawing.video import working_ffmpeg
from gap_vla.rlds import EpisodeStore
from gap_vla.rlds.loader import require_alike
from gap_vla.rlds.shard_names import shards_of
from gap_vla.rlds.shards import plan_splits
from gap_vla.rlds.store import made_of, source_hash_of
from gap_vla.rlds.version_files import check_files
from gap_vla.sim import require_rendering, task_spec, variant_spec
from gap_vla.training import backend_of
from gap_vla.training.config import LOGGERS, Experiment
from gap_vla.training.stages import Stages, require_own_stages

_LABELS: dict[str, Sequence[int]] = {"rho": (), "change_point": ()}
"""What every dataset that is made here has beside the fields of its demonstrations."""

_PAGE = 200_000
"""Bytes of a run's page, pictures and measurements, at least."""


def require_ready(config: Experiment, stages: Stages, directory: RunDirectory, dry_run: bool = False) -> None:
    """Checks everything that a run needs; a `dry_run` downloads nothing, and shows memory instead.

    Raises:
        ConfigError: data, weights or a device that do not fit the configuration, or are not there; a file in the place
            of a run's folder, or the other way round.
        ResourceError: a folder that cannot be written to; less memory or disk than is needed.
        OutputError: a page of somebody else's in the place of the run's.
        RenderingError: no EGL or OSMesa library, and pictures are to be drawn.
        EpisodeError: demonstrations that cannot be read.
    """
    begun = directory.path.is_dir()  # a run of one's own goes on also where no others may be made
    require_writable(*((directory.path, "the run") if begun else (config.runs, "runs")))
    if not directory.summary.exists():
        config.require_place(directory.path)
    folders = (directory.state, directory.tensorboard, directory.checkpoint, directory.rollouts)
    files = (directory.state / "training.pt", directory.first_batch, directory.metrics, directory.summary)
    for place in (*folders, *files, directory.page):
        kind, right = ("folder", place.is_dir()) if place in folders else ("file", place.is_file())
        if place.exists() and not right:
            raise ConfigError(f"{place} is no {kind}, and one belongs there; move it away, or copy the run again")
    claim(directory.page, "runs_report", suffixes=(".html",), named=False)
    if directory.config.exists() and (found := backend_of(directory.read_config(), type(config))) is not type(config):
        raise ConfigError(f"{directory.path} holds a run of the backend {found.backend}; take another --run-name")
    weights = getattr(config.model, "pretrained", "")
    read = [config.data.rlds, config.demos.path, *stages.mixture, "" if weights.startswith("hf://") else weights]
    sources = [source or None for source in read]
    require_apart(stages.store, *sources)
    require_apart(directory.path, *sources, stages.store, stages.rlds)
    if (logger := config.train.logger) in LOGGERS:
        try:
            importlib.import_module(logger).init  # noqa: B018
        except Exception as error:
            raise ConfigError(f"train.logger: {logger} cannot be used ({error}): pip install {logger}") from None
    if config.eval.episodes:
        for layouts in config.eval.layouts():
            variant_spec(layouts.variant).require_view(config.demos.camera)
        require_rendering()
        if config.eval.videos:
            working_ffmpeg(directory.rollouts, ConfigError, writes=True)
        if not dry_run:
            from gap_vla.rollouts.task import SLOTS, sim_task

            shown = sim_task(config.task, image_size=config.demos.image_size, cameras=config.demos.cameras)
            shown.require_memory(config.eval.episodes, config.eval.workers, SLOTS, config.eval.videos)
    config.require_ready(dry_run)
    require_own_stages(config, stages)
    if not (stages.store / "store.json").exists():
        if stages.store.is_dir() and any(stages.store.iterdir()):
            raise ConfigError(f"{stages.store} is no store, and not empty; move it away")
        if directory.config.exists() and directory.has_state:
            root = Section(directory.read_config(), str(directory.config), ConfigError).section("data").text("root")
            if root != config.data.root:  # what is made there carries other paths, and is other data
                raise ConfigError(f"{directory.path} was trained on data in {root}; move that folder to data.root")
        require_data(config, stages)
    elif stages.rlds.exists():  # the store is made anew if it is of other data
        require_dataset(stages.rlds, config)
    else:
        require_fields(stages.store, fields_of(EpisodeStore.open(stages.store)), config)
    if stages.mixture:
        _require_mixture(config, stages)
    if not dry_run:
        config.require_shapes(shapes := shapes_of_data(config, stages))
        require_training_memory(config, config.on_cpu, shapes, held_out_steps(config, stages))
    if not directory.checkpoint.exists() and not directory.has_state:
        states = config.disk() - sum(map(_size, killed_saves(directory.state)))  # which go as training begins
        needs = {"training states and checkpoint": max(0.0, states), "page and pictures": _PAGE}
        require_disk(needs, config.runs, "lower the sizes in model, or name another disk")


def require_training_memory(
    config: Experiment, on_cpu: bool, shapes: Mapping[str, Sequence[int]], held_out: int = 0
) -> None:
    """Raises ResourceError if the model, or (not `on_cpu`) its batches alone, do not fit into the machine's memory.

    Args:
        shapes: of the steps' fields, as far as they are known.
        held_out: steps that are held out, at least.
    """
    advice = f"lower {config.memory_advice}, demos.image_size, or the sizes in model"
    require_memory(_training_memory(config, on_cpu, shapes, held_out), advice)


def _training_memory(
    config: Experiment, on_cpu: bool, shapes: Mapping[str, Sequence[int]], held_out: int
) -> dict[str, float]:
    areas = [math.prod(shape[:2]) for name, shape in shapes.items() if name.startswith("image_")]
    counted = config.memory(math.sqrt(sum(areas) / len(areas)) if areas else config.demos.image_size, held_out)
    needs = {name: size for name, size in counted.items() if on_cpu or name == "batches"}
    return {"libraries": 300 * 2**20, **needs}


def memory_in_words(config: Experiment, shapes: Mapping[str, Sequence[int]], held_out: int = 0) -> str:
    """What `require_training_memory` counts, and whether it is here, for a dry run."""
    needs, have = _training_memory(config, config.on_cpu, shapes, held_out), available_memory()
    parts = ", ".join(f"{name} {shown(size)}" for name, size in needs.items())
    short = have is not None and sum(needs.values()) > have
    here = f"; {shown(have or 0)} are free here, so that a run would be refused" if short else ""
    return f"memory of training: about {shown(sum(needs.values()))} ({parts}){here}"


def require_data(config: Experiment, stages: Stages, collect_only: bool = False) -> None:
    """What the stages before training need, as far as they have not been made; collecting looks at its own disk."""
    require_writable(config.data.root, "data.root")
    if stages.rlds.exists():
        require_dataset(stages.rlds, config)
        return
    if {"rho", "change_point"} & {*config.needed_labels} and config.phases.method == "none":
        advice = "choose another, or a method without it"
        raise ConfigError(f"phases.method is 'none', and this method needs ρ or change points; {advice}")
    steps = task_spec(config.task).horizon / 2
    episodes = config.demos.episodes
    if config.demos.path:
        episodes, steps, _ = _require_source(config)
    splits = plan_splits(episodes, config.data.val_fraction)
    if not splits["train"] or not splits.get("val"):
        raise ConfigError(
            f"data.val_fraction is {config.data.val_fraction}; of {episodes} episodes, {len(splits['train'])} would be "
            f"left for training; {'lower it, or ' * (episodes > 1)}give more episodes"
        )
    if not stages.demos.exists():
        require_rendering()
    if collect_only:
        return
    raw = 3.0 * episodes * steps * len(config.demos.cameras) * config.demos.image_size**2
    needs = {"RLDS dataset": raw / 3, "episode store": raw}
    require_disk(needs, stages.store.parent, "lower demos.image_size, or give fewer episodes")


def _require_source(config: Experiment) -> tuple[int, int, dict[str, Sequence[int]]]:
    """Number of the named demonstrations, steps of the first, and fields of a dataset made of them, which must fit."""
    source = open_source(config.demos.path, config.demos.kind)
    if len(source) == 0:
        raise ConfigError(f"demos.path is {config.demos.path!r}, which holds no episodes")
    first = source.read(0)
    fields: dict[str, Sequence[int]] = {key: array.shape[1:] for key, array in sorted(first.arrays.items())}
    fields |= _LABELS
    require_fields(config.demos.path, fields, config)
    return len(source), len(first), fields


def _require_mixture(config: Experiment, stages: Stages) -> None:
    """Checks the datasets of `data.mixture` alone, and that their steps are like those of the main one."""
    known = dict([_data(config, stages)])
    for path in stages.mixture:
        require_dataset(path, config, {"train"})
        known[path] = _step_fields(path)
    if described := {path: shapes for path, shapes in known.items() if shapes is not None}:
        needed = ["proprio", "action", *(_LABELS if "rho" in config.needed_labels else ())]
        require_alike(described, [*(f"image_{camera}" for camera in config.demos.cameras), *needed])


def _data(config: Experiment, stages: Stages) -> tuple[Path, Mapping[str, Sequence[int]] | None]:
    """What is trained on, and the shapes of its steps' fields; None where its description is not TFDS'."""
    if made := made_store(stages):
        return stages.store, fields_of(made)
    if stages.rlds.exists():
        return stages.rlds, _step_fields(stages.rlds)
    if config.demos.path:
        return Path(config.demos.path), _require_source(config)[2]
    task, size = task_spec(config.task), config.demos.image_size
    widths = {"proprio": [task.proprio_dim], "action": [task.action_dim]}
    return stages.rlds, widths | _LABELS | {f"image_{camera}": [size, size, 3] for camera in config.demos.cameras}


def made_store(stages: Stages) -> EpisodeStore | None:
    """The store, unless it is of other data than the dataset, or of another version: it is made anew then."""
    there = (stages.store / "store.json").exists()
    if there and (not stages.rlds.exists() or made_of(source_hash_of(stages.rlds), stages.store)):
        return EpisodeStore.open(stages.store)
    return None


def shapes_of_data(config: Experiment, stages: Stages) -> Mapping[str, Sequence[int]]:
    """Shapes of the steps' pictures, states and actions where they may be others than the configuration says: without
    rollouts. Empty with them, and where they are not known."""
    found = {} if config.eval.episodes else _data(config, stages)[1] or {}
    wanted = {"proprio", "action", *(f"image_{camera}" for camera in config.demos.cameras)}
    return {name: shape for name, shape in found.items() if name in wanted and shape and min(shape) > 0}


def held_out_steps(config: Experiment, stages: Stages) -> int:
    """About how many steps are held out, or will be: of a dataset, at least as many as its bytes hold uncompressed; of
    episodes, as many as if all were as long as the first."""
    if stages.rlds.exists():
        fields = [
            (name, shape) for name, shape in (_step_fields(stages.rlds) or {}).items() if not isinstance(shape, dict)
        ]
        step = sum(math.prod(shape) * (1 if name.startswith("image_") else 4) for name, shape in fields)
        size = sum(path.stat().st_size for path in shards_of(stages.rlds, "val"))
        return size // step if step > 0 and all(min(shape, default=1) > 0 for _, shape in fields) else 0
    if (stages.store / "store.json").exists():
        made = EpisodeStore.open(stages.store)
        return len(made.split("val").fields["action"]) if "val" in made.splits else 0
    episodes, steps = config.demos.episodes, task_spec(config.task).horizon // 2
    if config.demos.path:
        episodes, steps, _ = _require_source(config)
    return len(plan_splits(episodes, config.data.val_fraction).get("val", ())) * steps


def require_dataset(directory: Path, config: Experiment, needed: Set[str] = frozenset({"train", "val"})) -> None:
    """Checks an RLDS dataset's own description: splits, cameras, their size, and ρ.

    Raises:
        ConfigError: says what is missing or differs, and what to do.
    """
    fields = _step_fields(directory)
    if fields is None:
        return  # a description of another kind; reading it will say what is wrong
    info = Section.read(directory / "dataset_info.json", ConfigError)
    splits = {split.text("name"): split for split in info.list("splits", Section.section)}
    for name in needed:
        if name not in splits:
            advice = "give one that has it (`gap-vla build-dataset --val-fraction 0.1`, of two episodes or more)"
            raise ConfigError(f"{directory} has no split {name!r}; {advice}")
        with refusing(f"{directory}, split {name}", "copy the dataset again", ConfigError):
            check_files(splits[name], shards_of(directory, name), directory)
    require_fields(directory, fields, config, widths="val" in needed)  # what a mixture adds must be like it


def fields_of(store: EpisodeStore) -> dict[str, Sequence[int]]:
    """The shapes of a step's fields."""
    return {key: array.shape[1:] for key, array in store.split("train").fields.items()}


def require_fields(
    where: Path | str, shapes: Mapping[str, Sequence[int]], config: Experiment, widths: bool = True
) -> None:
    """Checks that steps have the labels that the method needs, the pictures that the configuration names in the size
    that rollouts show (an Octo that is not rolled out may see others), and states and actions as wide as the task's, if
    it is rolled out.

    Args:
        shapes: of the fields, `image_<camera>` to height, width and channels; empty where they are not known.
        widths: whether those of states and actions are looked at.

    Raises:
        ConfigError: says what is missing or differs, and what to do.
    """
    for label in config.needed_labels:
        if label not in shapes:
            advice = "add that column" if label == "phase" else "add it with `gap-vla annotate`"
            raise ConfigError(
                f"{where} has no steps/{label}, which method {config.method} needs; {advice}, or choose a method "
                "without it"
            )
    if len(lone := sorted(_LABELS.keys() & shapes.keys())) == 1:
        other = min(_LABELS.keys() - {*lone})
        raise ConfigError(f"{where} has steps/{lone[0]} without steps/{other}; add both with `gap-vla annotate`")
    size = config.demos.image_size
    for camera in config.demos.cameras:
        if f"image_{camera}" not in shapes:
            known = ", ".join(key for key in shapes if key.startswith("image_")) or "none"
            raise ConfigError(f"{where} has no camera {camera!r} (demos.cameras); it has {known}")
        found = tuple(int(n) for n in shapes[f"image_{camera}"][:2])
        matters = config.eval.episodes or config.backend == "small"
        if found and matters and found != (size, size):
            square = f"set --config.demos.image_size={found[0]}" if found[0] == found[1] else "make them square"
            square = square if min(found) >= 16 else "make them larger, 16 × 16 at least"
            square = square if widths else f"make them {size} × {size}, or leave it out of data.mixture"
            raise ConfigError(
                f"{where} holds images of {found[0]} × {found[1]}, demos.image_size is {size}; wherever it is "
                f"rolled out, the policy would be shown others than it was trained on: {square}"
            )
    task = task_spec(config.task)
    for key, name, width in (("action", "actions", task.action_dim), ("proprio", "states", task.proprio_dim)):
        found = tuple(shapes.get(key, ()))
        if widths and config.eval.episodes and found and found != (width,):
            wide = "×".join(map(str, found))
            raise ConfigError(
                f"{where} has {name} of {wide} numbers, and {config.task}, where the policy would be rolled out, takes "
                f"{width}; name the task of these data, or set --config.eval.episodes=0"
            )


def _step_fields(directory: Path) -> dict[str, Any] | None:
    """The shapes of a step's fields, those of the observation among them; None if this is not TFDS' description."""
    try:
        tree = Section.read(directory / "features.json").values
        step = _described(tree["featuresDict"]["features"]["steps"]["sequence"]["feature"])
        return {**step, **step.get("observation", {})}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _described(feature: dict[str, Any]) -> Any:
    if "featuresDict" in feature:
        return {name: _described(part) for name, part in feature["featuresDict"]["features"].items()}
    kind = feature.get("image") or feature.get("tensor") or {}
    return [int(n) for n in kind.get("shape", {}).get("dimensions", [])]


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, of which another process may remove or rename some meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
