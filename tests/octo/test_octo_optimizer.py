"""The optimizer and the merge of fine-tuning do what upstream's do."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

from gap_vla.adjustment.jax import scale_group_updates
from gap_vla.core.errors import UserError
from gap_vla.octo.optimizer import create_optimizer, create_schedule, join_frozen, split_frozen
from gap_vla.octo.parameters import merge_params
from tests.helpers import octo_golden as golden

DATA = golden.arrays(golden.DATA / "optimizer.npz")

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "cosine_frozen": {
        "learning_rate": dict(
            name="cosine", init_value=1e-3, peak_value=1e-2, warmup_steps=2, decay_steps=6, end_value=1e-4
        ),
        "weight_decay": 0.1,
        "clip_gradient": 1.0,
        "frozen_keys": ["*hf_model*"],
    },
    "rsqrt_nofreeze": {
        "learning_rate": dict(name="rsqrt", init_value=0.0, peak_value=1e-2, warmup_steps=2, timescale=3),
        "weight_decay": 0.1,
        "clip_gradient": 1.0,
    },
    "constant_noclip": {
        "learning_rate": dict(name="constant", init_value=0.0, peak_value=1e-2, warmup_steps=2),
        "weight_decay": 0.0,
    },
    "constant_accum2": {
        "learning_rate": dict(name="constant", init_value=1e-2, peak_value=1e-2, warmup_steps=0),
        "weight_decay": 0.1,
        "clip_gradient": 1.0,
        "frozen_keys": ["*hf_model*"],
        "grad_accumulation_steps": 2,
    },
}


def _tree(prefix: str) -> Any:
    leaves = {key.removeprefix(prefix): value for key, value in DATA.items() if key.startswith(prefix)}
    assert leaves, prefix
    return unflatten_dict(leaves, sep="/")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_updates_are_upstreams(name: str) -> None:
    options = dict(OPTIMIZERS[name])
    frozen_keys = options.pop("frozen_keys", ())
    params, frozen = split_frozen(_tree("params0/"), frozen_keys)
    assert bool(frozen) == bool(frozen_keys)
    tx, schedule = create_optimizer(**options)
    state = tx.init(params)
    for step in range(5):
        np.testing.assert_allclose(schedule(step), DATA[f"{name}/lr/{step}"], rtol=1e-6)
        # Not compiled: XLA keeps more digits of the bfloat16 moment than the golden run did.
        gradients, _ = split_frozen(_tree(f"grads/{step}/"), frozen_keys)
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        norm = optax.tree_utils.tree_norm(params)
        np.testing.assert_allclose(norm, DATA[f"{name}/param_norm/{step}"], rtol=1e-6)
        for key, leaf in golden.flat(join_frozen(params, frozen)).items():
            expected = DATA[f"{name}/params/{step}/{key}"]
            np.testing.assert_allclose(leaf, expected, rtol=2e-6, atol=1e-7, err_msg=f"{key}, step {step}")


@pytest.mark.parametrize("name", ["cosine", "rsqrt", "constant"])
def test_schedules_are_upstreams(name: str) -> None:
    options = {"cosine": {"decay_steps": 50000}}.get(name, {})
    schedule = create_schedule(name, 0.0, 3e-4, 2000, **options)
    found = [schedule(step) for step in DATA[f"schedule/{name}/steps"]]
    np.testing.assert_allclose(found, DATA[f"schedule/{name}/lr"], rtol=1e-5, atol=1e-12)


def test_pretrained_leaves_of_which_none_fits_are_refused() -> None:
    with pytest.raises(UserError, match="none has a name and shape"):
        merge_params({"own": np.zeros(2), "wide": np.zeros(3)}, {"other": np.ones(2), "wide": np.ones(4)})


MERGES = json.loads((golden.DATA / "finetune_merge.json").read_text())["cases"]


@pytest.mark.parametrize("name", sorted(MERGES))
def test_fine_tuning_takes_over_what_upstream_takes_over(name: str) -> None:
    expected = MERGES[name]
    pretrained, target = published_and_target(expected)
    merged, account = merge_params(target, pretrained, verbose=False)
    assert {path: list(shape) for path, shape in account.fresh.items()} == expected["fresh"]
    assert sorted(account.reshaped) == sorted(expected["shape_mismatch"])
    assert len(account.loaded) == expected["n_copied"]
    assert {"/".join(path.split("/")[:2]) for path in account.dropped} == set(expected["dropped_from_pretrained"])
    assert all(f"{path} {shape}" in str(account) for path, shape in account.fresh.items())
    assert set(golden.flat_shapes(merged)) == set(golden.flat_shapes(target))


def published_and_target(case: dict[str, Any]) -> tuple[Any, Any]:
    """Shapes of octo-small-1.5 and of the model that the case fine-tunes it to."""
    from gap_vla.octo.spec import ModuleSpec
    from tests.helpers import octo_published as published

    model = published.config("octo-small-1.5")["model"]
    pretrained = published.pretrained("octo-small-1.5")
    tokenizers = {"primary": model["observation_tokenizers"]["primary"]}
    if case["proprio_dim"]:
        tokenizers["proprio"] = ModuleSpec.create(
            "octo.model.components.tokenizers:LowdimObsTokenizer", obs_keys=["proprio"]
        )
    fields = {"action_horizon": case["action_horizon"], "action_dim": case["action_dim"]}
    if case["head"] == "l1":
        head = ModuleSpec.create(
            "octo.model.components.action_heads:L1ActionHead", readout_key="readout_action", **fields
        )
    else:
        old = model["heads"]["action"]
        head = {**old, "kwargs": {**old["kwargs"], **fields}}
    target = {**model, "observation_tokenizers": tokenizers, "heads": {"action": head}}
    batch = published.batch(window=case["window"], proprio=case["proprio_dim"], wrist=False)
    return pretrained, published.shapes(target, batch)


def test_a_factor_reaches_what_acts_after_normalization_through_accumulation_and_clipping():
    params = {"state": {"kernel": jnp.ones(3)}, "head": {"kernel": jnp.ones(3)}}
    moved = {}
    for factor in (1.0, 0.25):
        tx, _ = create_optimizer(
            1e-3,
            clip_gradient=1.0,
            grad_accumulation_steps=2,
            after_normalization=scale_group_updates({"state/kernel": (3,)}),
        )
        state = tx.init(params)
        for _ in range(2):
            zero = {**params, "state": {"kernel": jnp.zeros(3)}}  # where no decay is added
            updates, state = tx.update(params, state, zero, update_factor=factor)
        moved[factor] = updates
    ratio = jax.tree.map(lambda a, b: float(a[0] / b[0]) if b[0] else 0.0, moved[0.25], moved[1.0])
    assert ratio["state"]["kernel"] == pytest.approx(0.25) and ratio["head"]["kernel"] == 1.0
