"""Upstream's checkpoint directory, read and written without orbax.

    <root>/config.json                 the config
    <root>/dataset_statistics.json     statistics for un-normalisation, nested lists
    <root>/example_batch.msgpack       one example: observation, task, action, action_pad_mask
    <root>/<step>/default/checkpoint   the parameters, flax msgpack

Directories whose names are not numbers belong to others (`state/`, ...) and are ignored.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from gap_vla.octo.errors import CheckpointError

CONFIG = "config.json"
STATISTICS = "dataset_statistics.json"
EXAMPLE_BATCH = "example_batch.msgpack"


def available_steps(root: Path) -> list[int]:
    """Steps in `root` that hold parameters, ascending."""
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such directory")
    return sorted(int(entry.name) for entry in root.iterdir() if entry.name.isdigit() and entry.is_dir())


def params_path(root: Path, step: int) -> Path:
    """The file with the parameters of `step`."""
    return root / str(step) / "default" / "checkpoint"


def read_params(root: Path, step: int | None = None) -> tuple[dict[str, Any], int]:
    """The parameters, a tree of numpy arrays, and their step; the latest unless `step` is given."""
    steps = available_steps(root)
    if step is None:
        if not steps:
            raise CheckpointError(f"{root}: no step directory (such as {root}/0/default/checkpoint)")
        step = steps[-1]
    path = params_path(root, step)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; steps in {root}: {steps or 'none'}")
    tree = read_msgpack(path)
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path}: expected a tree of parameters, found {type(tree).__name__}")
    return tree, step


def read_config(root: Path) -> dict[str, Any]:
    """The config, with names of older releases replaced by today's."""
    config = _read_json(root / CONFIG)
    for key in ("model", "text_processor"):
        if key not in config:
            raise CheckpointError(f"{root / CONFIG}: the key {key!r} is missing; found {sorted(config)}")
    for head in config["model"].get("heads", {}).values():
        if "pred_horizon" in head["kwargs"]:
            head["kwargs"]["action_horizon"] = head["kwargs"].pop("pred_horizon")
    return config


def read_example_batch(root: Path) -> dict[str, Any]:
    """The example batch, with names of older releases replaced by today's."""
    batch = read_msgpack(root / EXAMPLE_BATCH)
    if "tasks" in batch:
        batch["task"] = batch.pop("tasks")
    for key in ("observation", "task"):
        if key not in batch:
            raise CheckpointError(f"{root / EXAMPLE_BATCH}: the key {key!r} is missing; found {sorted(batch)}")
    observation = batch["observation"]
    if "timestep_pad_mask" not in observation and "pad_mask" in observation:
        observation["timestep_pad_mask"] = observation["pad_mask"]
    return batch


def read_statistics(root: Path) -> dict[str, Any]:
    """The statistics, every leaf a numpy array."""
    return jax.tree.map(np.array, _read_json(root / STATISTICS), is_leaf=lambda leaf: not isinstance(leaf, dict))


def read_msgpack(path: Path) -> Any:
    """A tree of numpy arrays from a flax msgpack file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; the checkpoint is incomplete") from error
    try:
        return serialization.msgpack_restore(content)
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable msgpack file ({error}); copy the checkpoint again") from error


def write_checkpoint(
    root: Path,
    step: int,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    example_batch: Mapping[str, Any],
    statistics: Mapping[str, Any] | None,
) -> Path:
    """Write the parameters of `step`, and the other files where they do not exist yet; returns the step's directory.

    Every file appears whole or not at all. An existing step is an error: checkpoints are never overwritten.
    """
    target = params_path(root, step)
    if target.exists():
        raise CheckpointError(f"{target} exists already; choose another step or another directory")
    write_description(root, config, example_batch, statistics)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, serialization.msgpack_serialize(_to_numpy(params)))
    return target.parent.parent


def write_description(
    root: Path, config: Mapping[str, Any], example_batch: Mapping[str, Any], statistics: Mapping[str, Any] | None
) -> None:
    """Write config, example batch and statistics, each only where its file does not exist yet."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / CONFIG).exists():
        _write(root / CONFIG, json.dumps(config).encode())
    if not (root / EXAMPLE_BATCH).exists():
        _write(root / EXAMPLE_BATCH, serialization.msgpack_serialize(_to_numpy(example_batch)))
    if not (root / STATISTICS).exists():
        _write(root / STATISTICS, json.dumps(_to_lists(statistics or {})).encode())


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, serialization.to_state_dict(tree))


def _to_lists(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), tree)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; the checkpoint is incomplete") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); copy the checkpoint again") from error


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
