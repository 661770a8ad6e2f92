"""Tasks as a model takes them, and whether observations and tasks fit the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from gap_vla.core.errors import ConfigError

_NOT_GOALS = ("pad_mask_dict", "language_instruction")


def create_tasks(
    example: Mapping[str, Any],
    text_processor: Any,
    goals: Mapping[str, Any] | None,
    texts: Sequence[str] | None,
) -> dict[str, Any]:
    """See `OctoModel.create_tasks`; `example` is the task of the model's example batch."""
    if isinstance(texts, str):
        raise ConfigError(f"texts is the one text {texts!r:.60}; give a list with one for each task")
    if texts is not None and text_processor is None:
        raise ConfigError("this model has no text processor, so it takes no texts; give goals")
    if goals is not None:
        batch = len(next(iter(goals.values())))
        task: dict[str, Any] = dict(goals)
        masks = {key: np.ones(batch, bool) for key in goals}
    else:
        assert texts is not None, "give goals, texts or both"
        batch = len(texts)
        shapes = {key: value for key, value in example.items() if key not in _NOT_GOALS}
        task = {key: np.zeros((batch, *value.shape[1:]), value.dtype) for key, value in shapes.items()}
        masks = {key: np.zeros(batch, bool) for key in shapes}
    if "language_instruction" not in masks:  # a goal of this name is an embedding
        if text_processor is not None:
            task["language_instruction"] = text_processor.encode([""] * batch if texts is None else list(texts))
        masks["language_instruction"] = np.full(batch, texts is not None)
    task["pad_mask_dict"] = masks
    check_batch("task", task, example, leading=1)
    return task


def check_inputs(observations: Mapping[str, Any], tasks: Mapping[str, Any], example: Mapping[str, Any]) -> None:
    """`check_batch` of what a model reads."""
    check_batch("observation", observations, example["observation"], leading=2)
    check_batch("task", tasks, example["task"], leading=1)


def check_batch(kind: str, data: Mapping[str, Any], example: Mapping[str, Any], leading: int) -> None:
    """Compares shapes with the example the model was built for, apart from the first `leading` axes.

    Missing and additional keys are allowed (a missing camera is padding) and warned about, but for a missing
    instruction; an instruction may be word pieces in one and an embedding in the other.

    Raises:
        ConfigError: an entry has another shape, or a picture is not uint8.
    """
    found, expected = flatten(data), flatten(example)
    # pad_mask_dict may lack entries, and say of an instruction that there is none.
    extra, missing = (
        sorted(key for key in keys if not key.startswith(("pad_mask_dict/", "language_instruction")))
        for keys in (set(found) - set(expected), set(expected) - set(found))
    )
    if extra:
        warnings.warn(f"{kind}: ignored or unknown to the model: {extra}", stacklevel=3)
    if missing:
        warnings.warn(f"{kind}: the model was built with {missing}, which are missing here", stacklevel=3)
    for key in sorted(set(found) & set(expected)):
        shape, wanted = np.shape(found[key]), np.shape(expected[key])
        if len(shape) != len(wanted) or shape[leading:] != wanted[leading:]:
            axes = ", ".join([*"BW"[:leading], *map(str, wanted[leading:])])
            raise ConfigError(f"{kind}/{key} is {shape}, the model was built for ({axes})")
        if key.startswith("image_") and found[key].dtype != np.uint8:
            raise ConfigError(f"{kind}/{key} is {found[key].dtype}, the model takes pictures as uint8")


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by their '/'-joined path."""
    return traverse_util.flatten_dict(dict(tree), sep="/")
