"""GAP in upstream Octo's fine-tuning script: octo_like.py stands in for it."""

import functools

import jax
import numpy as np
import pytest

from gap_vla.adjustment.jax import match_group, path_of
from gap_vla.integrations.octo import with_gap
from tests.integrations import octo_like

LAM = 0.25


def flat(tree):
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.fixture(scope="module")
def steps():
    """The four steps of a run in which GAP acts in the first two."""
    names = {name: value for name, value in vars(octo_like).items() if not name.startswith("__")}
    with_gap(octo_like, lam=LAM, window=0.5)
    try:
        octo_like.main(None)
    finally:
        vars(octo_like).update(names)
    return octo_like.LOG


@functools.cache
def plain(module):
    def loss(params, batch):
        return octo_like.loss_of(module, params, batch, jax.random.PRNGKey(1))[0]

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("number", range(4))
def test_proprio_learns_from_each_sample_by_one_minus_rho_and_lambda_in_the_window(steps, number):
    step, rho = steps[number], octo_like.RHO[3 * number + 3 : 3 * number + 6]  # the first batch is an example
    batch = dict(step["batch"])
    batch["observation"] = {name: value for name, value in batch["observation"].items() if name != "rho"}
    function = plain(step["model"].module)
    loss, gradients = function(step["before"], batch)
    assert step["loss"] == pytest.approx(float(loss), rel=1e-6)
    singles = []
    for sample in range(3):
        counted = np.arange(3)[:, None, None, None] == sample
        singles.append(
            flat(function(step["before"], batch | {"action_pad_mask": batch["action_pad_mask"] & counted})[1])
        )
    before, after, whole, group = (
        flat(step["before"]),
        flat(step["after"]),
        flat(gradients),
        match_group(step["before"]),
    )
    for name, gradient in whole.items():
        lam = 1.0
        if name in group and number < 2:
            gradient, lam = sum((1 - rho[b]) * singles[b][name] for b in range(3)) / 3, LAM
        np.testing.assert_allclose(
            after[name] - before[name], -0.1 * lam * gradient, rtol=1e-3, atol=2e-6, err_msg=name
        )


def test_actions_statistics_and_the_models_example_are_those_of_the_data_without_rho(steps):
    batch, model = steps[0]["batch"], steps[0]["model"]
    assert batch["action"].shape == batch["action_pad_mask"].shape == (3, 1, octo_like.HORIZON, 7)
    assert set(np.unique(batch["action"][..., 6])) == {-1.0, 1.0}  # the user's own standardize_fn; not normalised
    assert {len(value) for value in model.dataset_statistics["action"].values()} == {7}
    assert "rho" not in model.example_batch["observation"] and "rho" not in model.example_batch
