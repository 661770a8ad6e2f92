"""Dataset statistics with upstream's keys, and the normalisations that use them. numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.columns import Columns
from gap_vla.core.config import choose
from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json, write_json

STATISTICS = "dataset_statistics.json"
"""Their file, beside the shards of a dataset and in a store."""

NORMALIZATIONS = ("normal", "bounds", "bounds_q99", "min_max", "none")

MIN_STD = 1e-4
"""A dimension with a smaller standard deviation (m, quaternion or action units) carries no signal: its mask is False.

Dividing by it would blow a hair's difference at rollout up to a huge input. Masked dimensions pass through unchanged,
in both directions.
"""

_EPS = 1e-8


def dataset_statistics(
    actions: Iterable[Float[np.ndarray, "T A"]],
    proprios: Iterable[Float[np.ndarray, "T P"]],
    action_columns: Columns | None = None,
) -> dict[str, Any]:
    """Mean, std (population), min, max and quantiles over every step of every episode, and the counts.

    The mask is True for dimensions to normalise: all but those that do not vary (`MIN_STD`) and, in actions, those that
    `action_columns` describes as a gripper.

    Returns:
        `{"action": {mean, std, max, min, p01, p99, q01, q99, mask}, "proprio": {…}, "num_transitions",
        "num_trajectories"}`; vectors are float32 arrays. p01/p99 (Octo's names) and q01/q99 (OpenVLA's) are equal.
    """
    actions = list(actions)
    action, proprio = np.concatenate(actions), np.concatenate(list(proprios))
    mask = np.ones(action.shape[1], bool)
    if action_columns is not None:
        mask[action_columns.of("gripper")] = False
    return {
        "action": _describe(action, mask),
        "proprio": _describe(proprio, np.ones(proprio.shape[1], bool)),
        "num_transitions": len(action),
        "num_trajectories": len(actions),
    }


def _describe(values: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    wide = values.astype(np.float64)
    std = wide.std(0)
    low, high = np.quantile(wide, [0.01, 0.99], axis=0)
    described = {"mean": wide.mean(0), "std": std, "max": wide.max(0), "min": wide.min(0)}
    described |= {"p01": low, "p99": high, "q01": low, "q99": high}
    return {k: v.astype(np.float32) for k, v in described.items()} | {"mask": mask & (std >= MIN_STD)}


def normalize(
    x: Float[np.ndarray, "*batch D"], statistics: Mapping[str, Any], kind: str = "normal"
) -> Float[np.ndarray, "*batch D"]:
    """Scales `x` by one field of the statistics (`statistics["action"]` or `["proprio"]`).

    `normal`: (x − mean)/(std + 1e-8). `bounds`: upstream Octo's, the 1st/99th percentile to [−1, 1], clipped;
    `bounds_q99` is OpenVLA's name of the same. `min_max`: minimum/maximum to [−1, 1] (OpenVLA's `bounds`). `none`.
    Dimensions whose mask is False are returned unchanged.
    """
    mask = mask_of(statistics, x)
    if kind == "none":
        return np.asarray(x, np.float32)
    if kind == "normal":
        y = (x - vector_of(statistics, "mean")) / (vector_of(statistics, "std") + _EPS)
    else:
        low, high = limits(statistics, kind)
        y = np.clip(2 * (x - low) / (high - low + _EPS) - 1, -1, 1)
    return np.where(mask, y, x).astype(np.float32)


def unnormalize(
    x: Float[np.ndarray, "*batch D"], statistics: Mapping[str, Any], kind: str = "normal"
) -> Float[np.ndarray, "*batch D"]:
    """The inverse of `normalize` (of what was not clipped)."""
    mask = mask_of(statistics, x)
    if kind == "none":
        return np.asarray(x, np.float32)
    if kind == "normal":
        y = x * (vector_of(statistics, "std") + _EPS) + vector_of(statistics, "mean")
    else:
        low, high = limits(statistics, kind)
        y = (x + 1) / 2 * (high - low + _EPS) + low
    return np.where(mask, y, x).astype(np.float32)


def save_statistics(statistics: Mapping[str, Any], path: Path) -> None:
    """Writes JSON with lists for arrays."""
    plain = {
        k: {n: np.asarray(v).tolist() for n, v in value.items()} if isinstance(value, Mapping) else int(value)
        for k, value in statistics.items()
    }
    write_json(path, plain)


def load_statistics(path: Path) -> dict[str, Any]:
    """Reads what `save_statistics` (or upstream Octo) wrote: float32 vectors, and masks of bool."""
    return {
        key: {n: np.asarray(v, bool if n == "mask" else np.float32) for n, v in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in read_json(path).items()
    }


def vector_of(statistics: Mapping[str, Any], name: str) -> np.ndarray:
    """One vector of a field. Raises UserError: statistics of others may lack it."""
    if name not in statistics:
        raise UserError(f"statistics lack {name}; they have {', '.join(sorted(statistics))}")
    return np.asarray(statistics[name], np.float32)


def mask_of(statistics: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Which columns of `x` are normalised. Raises UserError: these are statistics of another width."""
    width = len(vector_of(statistics, "mean"))
    if np.shape(x)[-1:] != (width,):
        raise UserError(f"array has shape {np.shape(x)}, statistics are {width} wide: they belong to other data")
    return np.asarray(statistics.get("mask", np.ones(width, bool)), bool)


def limits(statistics: Mapping[str, Any], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers of each dimension that a normalisation other than `normal` and `none` puts at -1 and 1."""
    choose(kind, NORMALIZATIONS, "normalization")
    if kind == "min_max":
        names = "min", "max"
    else:
        names = ("p01", "p99") if "p01" in statistics else ("q01", "q99")
    low, high = (vector_of(statistics, name) for name in names)
    return low, high
