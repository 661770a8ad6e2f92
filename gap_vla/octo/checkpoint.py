"""Upstream's checkpoint directory, read and written without orbax.

    <root>/config.json                 the config
    <root>/dataset_statistics.json     statistics for un-normalisation, nested lists
    <root>/example_batch.msgpack       one example: observation, task, action, action_pad_mask
    <root>/<step>/default/checkpoint   the parameters, flax msgpack

Directories whose names are not numbers belong to others (`state/`, ...) and are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization, traverse_util

from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json, replacing
from gap_vla.octo.normalization import stated_normalization

CONFIG = "config.json"
STATISTICS = "dataset_statistics.json"
EXAMPLE_BATCH = "example_batch.msgpack"
FINETUNED = "finetune_config.json"
"""What upstream's fine-tuning writes beside a checkpoint; in its config.json stays what the pretraining said."""


def available_steps(root: Path) -> list[int]:
    """Steps in `root` that hold parameters, ascending."""
    steps = [int(entry.name) for entry in root.iterdir() if entry.name.isascii() and entry.name.isdecimal()]
    return sorted(step for step in steps if params_path(root, step).exists())


def params_path(root: Path, step: int) -> Path:
    """The file with the parameters of `step`."""
    return root / str(step) / "default" / "checkpoint"


def read_params(root: Path, step: int | None = None) -> tuple[dict[str, Any], int]:
    """The parameters, a tree of numpy arrays, and their step; the latest unless `step` is given."""
    steps = available_steps(root)
    if not steps or (step is not None and step not in steps):
        raise UserError(f"{root}: no parameters of step {'N' if step is None else step} (there are {steps or 'none'})")
    step = steps[-1] if step is None else step
    return read_msgpack(params_path(root, step)), step


def check_params(params: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Raises UserError: the parameters have other names or shapes than those `expected`; names the first ones."""
    have, want = ({key: tuple(leaf.shape) for key, leaf in flatten(tree).items()} for tree in (params, expected))
    odd = [f"{key} is missing" for key in sorted(want.keys() - have.keys())]
    odd += [f"{key} is unknown" for key in sorted(have.keys() - want.keys())]
    shared = sorted(want.keys() & have.keys())
    odd += [f"{key} is {have[key]} and should be {want[key]}" for key in shared if have[key] != want[key]]
    if odd:
        more = f", and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise UserError(f"{path} is not of the model in {CONFIG}: {', '.join(odd[:5])}{more}")


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by their '/'-joined path."""
    return traverse_util.flatten_dict(dict(tree), sep="/")


def read_config(root: str | Path) -> dict[str, Any]:
    """The config, with names of older releases replaced by today's, and how the data of a fine-tuning were normalised.

    Nothing that the file names is imported.
    """
    root = Path(root)
    config = read_json(root / CONFIG)
    if "observation_tokenizers" not in config.get("model", {}):
        raise UserError(f"{root / CONFIG} describes no Octo model; give a checkpoint in Octo's layout")
    for head in config["model"]["heads"].values():
        if "pred_horizon" in head["kwargs"]:
            head["kwargs"]["action_horizon"] = head["kwargs"].pop("pred_horizon")
    if "normalization" not in config and (root / FINETUNED).is_file():
        options = {"dataset_kwargs": read_json(root / FINETUNED).get("dataset_kwargs")}
        if stated_normalization(options, str(root / FINETUNED)):
            config |= options
    return config


def read_example_batch(root: Path) -> dict[str, Any]:
    """The example batch, with names of older releases replaced by today's."""
    batch = read_msgpack(root / EXAMPLE_BATCH)
    if "tasks" in batch:
        batch["task"] = batch.pop("tasks")
    if "pad_mask" in batch["observation"]:
        batch["observation"].setdefault("timestep_pad_mask", batch["observation"]["pad_mask"])
    return batch


def read_statistics(root: Path) -> dict[str, Any]:
    """The statistics, every leaf a numpy array."""

    def arrays(value: Any) -> Any:
        return {key: arrays(inner) for key, inner in value.items()} if isinstance(value, dict) else np.array(value)

    return arrays(read_json(root / STATISTICS))


def read_msgpack(path: Path) -> Any:
    """A tree of numpy arrays from a flax msgpack file."""
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no readable msgpack file ({error}); copy it again") from None


def write_checkpoint(
    root: Path,
    step: int,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    example_batch: Mapping[str, Any],
    statistics: Mapping[str, Any] | None,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Writes the parameters of `step`, and the other files (`beside`: more, by name) where they do not exist yet.

    Raises UserError: the step exists already, or a config of another model does.
    """
    if (root / str(step)).exists():
        raise UserError(f"{root / str(step)} exists already; choose another step or another directory")
    lists = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), statistics or {})
    contents = {CONFIG: json.dumps(config, default=_plain).encode(), STATISTICS: json.dumps(lists).encode()}
    contents |= {EXAMPLE_BATCH: serialization.msgpack_serialize(_to_numpy(example_batch)), **(beside or {})}
    if (root / CONFIG).exists() and read_config(root)["model"] != json.loads(contents[CONFIG])["model"]:
        raise UserError(f"{root / CONFIG} is of another model; choose another directory")
    for name, content in contents.items():
        if not (root / name).exists():
            with replacing(root / name) as temporary:
                temporary.write_bytes(content)
    with replacing(root / str(step)) as folder:
        (folder / "default").mkdir(parents=True)
        (folder / "default" / "checkpoint").write_bytes(serialization.msgpack_serialize(_to_numpy(params)))


def _plain(value: Any) -> Any:
    """What JSON does not know as it does: numbers and arrays of numpy, and mappings that are no dict."""
    return value.tolist() if hasattr(value, "tolist") else dict(value.items())


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, serialization.to_state_dict(tree))
