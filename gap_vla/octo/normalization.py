"""How a checkpoint's actions were normalised, as its config says it, and the way back into the robot's units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError


def unnormalize(
    actions: Float[Array, "*batch A"],
    statistics: Mapping[str, Any],
    normalization_type: str = "normal",
) -> jax.Array:
    """Actions in the units of the data, where `mask`: a * std + mean ("normal": zero mean and unit deviation), or
    (a + 1) * (p99 - p01) / 2 + p01 ("bounds": the 1st and 99th percentile are -1 and 1).

    Args:
        statistics: of one data set's actions, vectors as wide as they are: mean and std, or p01 and p99 (OpenVLA: q01
            and q99), and perhaps a mask. Further dimensions of `actions` are dropped.
    """
    known = needed_statistics(statistics, normalization_type)
    mask = jnp.asarray(statistics.get("mask", np.ones_like(next(iter(known.values())), dtype=bool)), bool)
    actions = actions[..., : len(mask)]
    values = {key: jnp.asarray(value, jnp.float32) for key, value in known.items()}
    if "std" in values:
        return jnp.where(mask, actions * values["std"] + values["mean"], actions)
    span = values["p99"] - values["p01"]
    return jnp.where(mask, (actions + 1) * span / 2 + values["p01"], actions)


def needed_statistics(statistics: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
    """std and mean, or p99 and p01. Raises ConfigError: they are not there."""
    named = {"p01": statistics.get("q01"), "p99": statistics.get("q99"), **statistics}
    needed = ("std", "mean") if choose(kind, ("normal", "bounds"), "normalization") == "normal" else ("p99", "p01")
    if any(named.get(key) is None for key in needed):
        raise ConfigError(
            f"normalization {kind} needs the statistics {' and '.join(needed)}; found {', '.join(statistics)}: give "
            "those of one data set's actions, such as model.dataset_statistics['action']"
        )
    return {key: np.asarray(named[key]) for key in needed}


def stated_normalization(config: Mapping[str, Any], where: str = "config.json") -> str | None:
    """What a config says: ours as `normalization`, upstream's somewhere among its data's options; None: nothing.

    Raises ConfigError: it says several, of which one has to be chosen.
    """
    stated = {config["normalization"]} if "normalization" in config else {*_said(config.get("dataset_kwargs"))}
    if len(stated) > 1:
        raise ConfigError(f"{where} says normalization {' and '.join(sorted(stated))}; leave what holds for the robot")
    return next(iter(stated), None)


def _said(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):  # a mixture: for each dataset
        for inner in value:
            yield from _said(inner)
    elif hasattr(value, "items"):
        for name, inner in value.items():
            if name == "action_proprio_normalization_type" and inner is not None:
                yield str(inner)
            else:
                yield from _said(inner)
