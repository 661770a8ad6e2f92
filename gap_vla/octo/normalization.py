"""How a checkpoint's actions were normalised, as its files say it, and the way back into the robot's units."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gap_vla.core.foreign import CheckpointError, Section
from gap_vla.rlds.statistics import NORMALIZATIONS

FINETUNED = "finetune_config.json"
"""What upstream's fine-tuning writes beside a checkpoint; in its config.json stays what the pretraining said."""

_KEY = "action_proprio_normalization_type"


class NormalizationType(enum.StrEnum):
    """How actions were normalised: to zero mean and unit deviation, or the 1st and 99th percentile to -1 and 1."""

    NORMAL = "normal"
    BOUNDS = "bounds"


def unnormalize(
    actions: Float[Array, "*batch A"],
    statistics: Mapping[str, Any],
    normalization_type: NormalizationType | str = "normal",
) -> jax.Array:
    """Actions in the units of the data: a * std + mean, or (a + 1) * (p99 - p01) / 2 + p01, where `mask`."""
    mask = jnp.asarray(statistics.get("mask", np.ones_like(statistics["mean"], dtype=bool)), bool)
    actions = actions[..., : len(mask)]
    kind = NormalizationType(normalization_type)
    needed = ("std", "mean") if kind is NormalizationType.NORMAL else ("p99", "p01")
    values = {key: jnp.asarray(statistics[key], jnp.float32) for key in needed}
    if kind is NormalizationType.NORMAL:
        return jnp.where(mask, actions * values["std"] + values["mean"], actions)
    span = values["p99"] - values["p01"]
    return jnp.where(mask, (actions + 1) * span / 2 + values["p01"], actions)


def stated_normalizations(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says, by the key that says it: ours by itself, upstream's anywhere among its data's options."""
    if "normalization" in config:
        return {"normalization": config["normalization"]}
    return dict(_said(config.get("dataset_kwargs"), "dataset_kwargs"))


def stated_normalization(config: Mapping[str, Any], where: object) -> str | None:
    """The one that it says, if it says any.

    Raises:
        CheckpointError: it says several, or what is none; the message begins with `where`.
    """
    stated = stated_normalizations(config)
    section = Section(stated, str(where), CheckpointError)
    first: dict[str, str] = {}
    for key in stated:
        first.setdefault(section.choice(key, NORMALIZATIONS), key)
    if len(first) > 1:
        what = " and ".join(f"{key} {kind}" for kind, key in first.items())
        raise CheckpointError(f"{where} says {what}; leave what holds for the robot's data alone")
    return next(iter(first), None)


def _said(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):  # a mixture: for each dataset
        for place, inner in enumerate(value):
            yield from _said(inner, f"{key}[{place}]")
    elif hasattr(value, "items"):
        for name, inner in value.items():
            if name == _KEY and inner is not None:
                yield f"{key}.{name}", inner
            else:
                yield from _said(inner, f"{key}.{name}")


def as_finetuned(root: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the checkpoint in `root`; of one of upstream's, with the data's options of its fine-tuning, where
    those say how actions were normalised."""
    options = _options(root)
    return {**config, **(options if "normalization" not in config and stated_normalizations(options) else {})}


def upstreams_normalization(root: Path, config: Mapping[str, Any]) -> str | None:
    """What the config of a checkpoint of upstream's says, as `as_finetuned` gives it; see `stated_normalization`."""
    return stated_normalization(config, root / (FINETUNED if stated_normalizations(_options(root)) else "config.json"))


def require_finetuned_alike(root: Path, own: str) -> None:
    """Raises CheckpointError: beside a checkpoint of ours, which says its normalization, lies upstream's file of a
    fine-tuning that says another."""
    if (said := stated_normalization(_options(root), root / FINETUNED)) not in (None, own):
        what = f"its config.json says normalization {own}, {FINETUNED} {said}"
        raise CheckpointError(f"{root}: {what}; remove the one that is not of it")


def _options(root: Path) -> dict[str, Any]:
    return {"dataset_kwargs": _finetuned(root).get("dataset_kwargs")}


def contradictions(root: Path, window: int, statistics: Mapping[str, Any]) -> list[str]:
    """What a `finetune_config.json` of another training says otherwise than the example batch and the statistics."""
    finetuned = _finetuned(root)
    data, of_actions = finetuned.get("dataset_kwargs"), statistics.get("action")
    mask = data.get("action_normalization_mask") if isinstance(data, Mapping) else None
    known = of_actions.get("mask") if isinstance(of_actions, Mapping) else None
    pairs = {
        "window_size": (finetuned.get("window_size"), window, "example batch"),
        "action_normalization_mask": (mask, None if known is None else np.asarray(known).tolist(), "statistics"),
    }
    return [
        f"{key} is {said} by its {FINETUNED} and {found} by its {where}"
        for key, (said, found, where) in pairs.items()
        if None not in (said, found) and said != found
    ]


def _finetuned(root: Path) -> Mapping[str, Any]:
    path = root / FINETUNED
    return Section.read(path, CheckpointError).values if path.is_file() else {}
