"""Packing, and measurements by branch and by ρ, on a policy that can be computed by hand."""

import jax
import numpy as np
import optax
import pytest

from gap_vla.adjustment.jax import path_of
from gap_vla.core.errors import ConfigError
from gap_vla.octo.module import OctoModule
from gap_vla.octo.optimizer import create_optimizer
from gap_vla.octo.presets import small_config
from gap_vla.training import packing as packing_module
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_model import Parameters, optimizer_of
from gap_vla.training.packing import Packing, branch_of
from gap_vla.training.step import branch_norms
from tests.helpers.linear_policy import GROUP, batch_of, linear_training, neutral, parameters


def flat(tree):
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.parametrize("multiple", [1, 4])
def test_packing_and_unpacking_are_inverse(multiple):
    packing = Packing.of(parameters(), GROUP, multiple)
    packed = packing.pack(parameters())
    assert set(packed) == {"vision/kernel", "proprio/kernel", "shared/kernel", "shared/rest"}
    assert all(len(vector) % multiple == 0 for vector in packed.values())
    found, expected = flat(packing.unpack(packed)), flat(parameters())
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path])


def test_branches_are_told_by_the_owner_of_a_leaf_not_by_a_substring():
    group = {"octo_transformer/obs_proprio_projection/kernel": (1, 4)}
    expected = {
        "octo_transformer/obs_proprio_projection/kernel": "proprio",
        "octo_transformer/obs_primary_projection/kernel": "vision",
        "octo_transformer/observation_tokenizers_primary/SmallStem16_0/embedding/kernel": "vision",
        "octo_transformer/task_language_projection/kernel": "shared",
        "octo_transformer/BlockTransformer_0/Transformer_0/encoder_norm/scale": "shared",
        "heads_action/mean_proj/kernel": "shared",
    }
    assert {path: branch_of(path, group) for path in expected} == expected


@pytest.mark.parametrize("large", [30, 10**9])
def test_the_packed_optimizer_does_what_the_optimizer_of_the_tree_does(monkeypatch, large):
    monkeypatch.setattr(packing_module, "LARGE", large)
    gradients = [jax.tree_util.tree_map(lambda leaf, s=seed: leaf * s, parameters(seed)) for seed in (2, 3)]
    packing = Packing.of(parameters(), GROUP)
    results = []
    for pack, unpack in ((packing.pack, packing.unpack), (lambda tree: tree, lambda tree: tree)):
        params = pack(parameters())
        tx, _ = create_optimizer(0.01, weight_decay=0.1, clip_gradient=1.0)
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(pack(gradient), state, params)
            params = optax.apply_updates(params, updates)
        results.append(flat(unpack(params)))
    for path in results[0]:
        np.testing.assert_allclose(results[0][path], results[1][path], rtol=1e-6)


def test_measuring_by_rho_does_not_change_the_step():
    batch, results = batch_of(), []
    for split in (False, True):
        state, step, _ = linear_training()
        results.append(step(state, batch, neutral(batch), split=split)[0])
    for plain, measured in zip(jax.tree_util.tree_leaves(results[0]), jax.tree_util.tree_leaves(results[1])):
        np.testing.assert_array_equal(plain, measured)


def test_the_parts_by_rho_are_the_gradients_of_their_own_entries():
    batch = batch_of()
    state, step, _ = linear_training()
    high, low = batch["rho"] > 0.5, batch["rho"] <= 0.5
    counted = batch["action_pad_mask"] & batch["observation"]["timestep_pad_mask"][:, :, None, None]

    def gradient_of(part):
        own = {**batch, "action_pad_mask": batch["action_pad_mask"] & part[:, :, None, None]}
        share = (counted & part[:, :, None, None]).sum() / counted.sum()
        gradients, _ = step.gradient(state.params, {}, own, neutral(batch).sample, state.rng)
        return branch_norms({label: share * vector for label, vector in gradients.items()})

    expected = {"transition": gradient_of(high), "consistent": gradient_of(low)}
    _, measured = step(state, batch, neutral(batch), split=True)
    for part, norms in expected.items():
        for branch in ("vision", "proprio", "shared"):
            np.testing.assert_allclose(measured[f"grad_norm/{branch}/{part}"], norms[branch], rtol=1e-4)


def without_language():
    return OctoModule.create(**small_config()["model"])


def test_frozen_leaves_have_neither_gradient_nor_optimizer_state():
    tree = {"octo_transformer": {"obs_proprio_pos_embedding": np.zeros((1, 1, 2, 4)), "hf_model": np.zeros(1000)}}
    tree["octo_transformer"]["obs_proprio_projection"] = {"kernel": np.zeros((1, 4)), "bias": np.zeros(4)}
    values = {"task": "threading", "optimizer": {"frozen_keys": ["*hf_model*"]}}
    config = FinetuneConfig.from_dict(values)
    parameters = Parameters.of(config, tree, without_language())
    packing, tx, _ = optimizer_of(config, parameters)
    frozen = parameters.frozen
    assert "octo_transformer/hf_model" not in packing.shapes and frozen["octo_transformer"]["hf_model"].shape == (1000,)
    state = tx.init(packing.pack(parameters.trainable))
    assert sum(leaf.size for leaf in jax.tree_util.tree_leaves(state)) < 60


def test_gap_on_a_frozen_branch_is_refused_before_the_first_step():
    tree = {"octo_transformer": {"obs_proprio_projection": {"kernel": np.zeros((1, 4))}}, "heads_action": np.zeros(3)}
    values = {"task": "threading", "optimizer": {"frozen_keys": ["octo_transformer.*"]}}
    gap, plain = (FinetuneConfig.from_dict(values | {"method": method}) for method in ("vp_gap", "vp"))
    with pytest.raises(ConfigError, match=r"octo_transformer\.obs_proprio_projection\.kernel"):
        Parameters.of(gap, tree, without_language())
    assert Parameters.of(plain, tree, without_language()).frozen
