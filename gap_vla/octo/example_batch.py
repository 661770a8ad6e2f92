"""The example batch that a checkpoint's model was built for: whether a model can have it, and of two, whether they are
of one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gap_vla.core.foreign import CheckpointError, Section
from gap_vla.core.identity import differences, flat
from gap_vla.octo.batches import BatchError, check_pad_mask


def checked_example(path: Path, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The example batch in the file at `path`, with names of older releases replaced by today's.

    Raises:
        CheckpointError: an entry is missing, no array of finite numbers, or not as long as the others (B, W of
            `timestep_pad_mask`); a picture is not uint8; or the mask is none.
    """
    batch = dict(batch)
    if "tasks" in batch:
        batch["task"] = batch.pop("tasks")
    found = Section(batch, str(path), CheckpointError)
    observation = dict(found.section("observation").values)
    task = found.section("task").values
    if "timestep_pad_mask" not in observation and "pad_mask" in observation:
        observation["timestep_pad_mask"] = observation["pad_mask"]
    window = np.shape(observation.get("timestep_pad_mask", 0))
    if len(window) != 2 or 0 in window:
        raise CheckpointError(f"{path}: observation.timestep_pad_mask is {window}; it must be (B, W)")
    parts: list[tuple[tuple[int, ...], str, Any]] = [(window, "observation", observation), (window[:1], "task", task)]
    for key in ("action", "action_pad_mask"):
        if key in batch:  # (B, W, H, A); of older releases (B, W + H - 1, A)
            parts.append((window if np.ndim(batch[key]) == 4 else window[:1], key, batch[key]))
    for leading, key, entry in parts:
        for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(entry):
            place = f"{path}: {key}{jax.tree_util.keystr(leaf_path)}"
            if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "biuf":
                raise CheckpointError(f"{place} is {type(leaf).__name__}; it must be an array of numbers")
            if leaf.shape[: len(leading)] != leading or leaf.size == 0:
                raise CheckpointError(f"{place} is {leaf.shape}; it must start with {leading} as timestep_pad_mask")
            with np.errstate(over="ignore"):
                finite = np.isfinite(leaf.astype(np.float32)).all()  # as models take it
            if not finite:
                raise CheckpointError(f"{place} is NaN or infinite in places; copy the file again")
    if {"action", "action_pad_mask"} <= batch.keys():
        mask, action = np.shape(batch["action_pad_mask"]), np.shape(batch["action"])
        if mask not in (action, action[:-1]):
            raise CheckpointError(f"{path}: action_pad_mask is {mask}, action {action}; copy the file again")
    for key, entry in (("observation", observation), ("task", task)):
        for name, leaf in entry.items():
            if name.startswith("image_") and getattr(leaf, "dtype", np.uint8) != np.uint8:
                raise CheckpointError(f"{path}: {key}[{name!r}] is {leaf.dtype}; models take pictures as uint8")
    try:
        check_pad_mask(observation["timestep_pad_mask"])
    except BatchError as error:
        raise CheckpointError(f"{path}: observation: {error}") from None
    return {**batch, "observation": observation}


def require_alike(path: Path, there: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises CheckpointError if inputs have another window, width or dtype; examples may be more or fewer."""
    kinds = []
    for batch in (there, ours):
        inputs = flat({key: batch[key] for key in ("observation", "task")}, separator="/")
        arrays = {key: np.asarray(leaf) for key, leaf in inputs if not isinstance(leaf, Mapping)}
        kinds.append({key: f"{leaf.dtype}[B, {str([*leaf.shape[1:]])[1:]}" for key, leaf in arrays.items()})
    if changed := differences(*kinds):
        key, (found, given) = next(iter(changed.items()))
        what = f"{key} is {found or 'missing'} there and {given or 'missing'} here"
        raise CheckpointError(f"{path} is of another model ({what}); choose another directory")
