"""Whether observations and tasks fit a model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from gap_vla.core.errors import ConfigError


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
