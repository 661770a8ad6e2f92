"""GAP in upstream Octo's `scripts/finetune.py` (read at 241fb35), for datasets with `steps/rho`.

Upstream drops every step field that it does not know, so ρ travels as one more dimension of the actions
(docs/UPSTREAM.md), and from the batch to the loss as an observation that the transformer does not get.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from gap_vla.adjustment.jax import adjusted_gradients, match_group, scale_group_updates
from gap_vla.adjustment.schedule import AdjustmentSchedule

Spec = Mapping[str, Any]
"""Upstream's ModuleSpec: a function by `module` and `name`, with `args` and `kwargs`."""


def with_gap(script: ModuleType, lam: float = 0.3, window: float = 0.5) -> None:
    """Makes `script.main` train with GAP (M6) on the tokens `obs_proprio`.

    λ scales all that the optimizer does to them, weight decay too. Validation data have no ρ and need none.

    Args:
        script: upstream's `scripts/finetune.py`, as a module; five names in it are replaced.
        lam, window: λ, and the share of the steps in which GAP acts, from the first on.
    """
    schedule = AdjustmentSchedule(lam=lam, window=window)
    main, model_class = script.main, script.OctoModel
    make_dataset, process_text, create_optimizer = (
        script.make_single_dataset,
        script.process_text,
        script.create_optimizer,
    )
    active = trained = 0

    def main_with_gap(*given: Any) -> Any:
        nonlocal active, trained
        active, trained = schedule.active_steps(int(script.FLAGS.config.num_steps)), -1  # the first batch is an example
        with rho_to_gradients():
            return main(*given)

    def dataset_with_rho(dataset_kwargs: Any, *, traj_transform_kwargs: Any, **named: Any) -> Any:
        from gap_vla.rlds.transforms import without_rho

        dataset = make_dataset(packed(dataset_kwargs), traj_transform_kwargs=unpacked(traj_transform_kwargs), **named)
        dataset.dataset_statistics = without_rho(dataset.dataset_statistics)
        return dataset

    def text_and_rho(batch: dict[str, Any], *given: Any) -> dict[str, Any]:
        nonlocal trained
        batch = process_text(batch, *given)
        if "rho" in batch:
            rho = np.asarray(batch.pop("rho"), np.float32)
            batch["observation"] = {**batch["observation"], "rho": rho if trained < active else np.zeros_like(rho)}
            trained += 1
        return batch

    def optimizer(params: Any, **named: Any) -> tuple[optax.GradientTransformation, Any, Any]:
        tx, *others = create_optimizer(params, **named)
        scaled = scale_group_updates(match_group(params), lambda step: jnp.where(step < active, schedule.lam, 1.0))
        return optax.chain(tx, scaled), *others

    def from_config(config: Any, example_batch: Any, *given: Any, **named: Any) -> Any:
        observation = {name: value for name, value in example_batch["observation"].items() if name != "rho"}
        return model_class.from_config(config, {**example_batch, "observation": observation}, *given, **named)

    script.main, script.make_single_dataset = main_with_gap, dataset_with_rho  # type: ignore[attr-defined]
    script.process_text, script.create_optimizer = text_and_rho, optimizer  # type: ignore[attr-defined]
    script.OctoModel = SimpleNamespace(  # type: ignore[attr-defined]
        load_pretrained=model_class.load_pretrained, from_config=from_config
    )


@contextlib.contextmanager
def rho_to_gradients() -> Iterator[None]:
    """Within this context `rho`, float[B, W], in the observations of an OctoTransformer adjusts its gradients."""

    def intercept(next_call: Callable, given: tuple, named: dict, context: Any) -> Any:
        if (
            type(context.module).__name__ != "OctoTransformer"
            or context.method_name != "__call__"
            or "rho" not in given[0]
        ):
            return next_call(*given, **named)
        observations = {name: value for name, value in given[0].items() if name != "rho"}
        with adjusted_gradients(1 - given[0]["rho"]):
            return next_call(observations, *given[1:], **named)

    with nn.intercept_methods(intercept):
        yield


def packed(dataset_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`dataset_kwargs` with ρ as the last dimension of the actions."""
    spec = {
        "module": __name__,
        "name": "standardize",
        "args": (),
        "kwargs": {"inner": dataset_kwargs.get("standardize_fn")},
    }
    mask = [*dataset_kwargs["action_normalization_mask"], False]
    own = {key: value for key, value in dataset_kwargs.items() if key != "dataset_statistics"}  # not of these actions
    return {**own, "standardize_fn": spec, "action_normalization_mask": mask}


def unpacked(traj_transform_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`traj_transform_kwargs` that take ρ out of the chunked actions again."""
    spec = {"module": "gap_vla.rlds.transforms", "name": "unpack_rho", "args": (), "kwargs": {}}
    return {
        **traj_transform_kwargs,
        "post_chunk_transforms": [*traj_transform_kwargs.get("post_chunk_transforms", ()), spec],
    }


def standardize(trajectory: dict[str, Any], inner: Spec | None) -> dict[str, Any]:
    """A `standardize_fn`: the user's own, then `pack_rho`."""
    from gap_vla.rlds.transforms import pack_rho

    if inner is not None:
        function = getattr(importlib.import_module(inner["module"]), inner["name"])
        kept = {"rho": trajectory["rho"]} if "rho" in trajectory else {}
        trajectory = {**function(trajectory, *inner["args"], **inner["kwargs"]), **kept}
    return pack_rho(trajectory)
