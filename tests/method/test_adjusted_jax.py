"""GAP inside Octo's gradient: what it changes, what it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gap_vla.adjustment.jax import (
    adjusted_gradients,
    match_group,
    path_of,
    scale_gradient,
    scale_group_gradients,
    scale_group_updates,
)
from gap_vla.core.errors import ConfigError
from gap_vla.octo.model import OctoModel
from gap_vla.octo.module import OctoModule
from gap_vla.octo.parameters import parameter_shapes
from gap_vla.octo.presets import example_batch, small_config
from gap_vla.training.step import head_loss

jax.config.update("jax_default_matmul_precision", "highest")  # as on a processor; a GPU would multiply in TF32

BATCH, WINDOW = 3, 2
OWN = {
    "octo_transformer/obs_proprio_pos_embedding",
    "octo_transformer/obs_proprio_projection/bias",
    "octo_transformer/obs_proprio_projection/kernel",
}


@pytest.fixture(scope="module")
def model():
    config = small_config(image_size=8, proprio_dim=5, token_embedding_size=32, num_layers=1, stem_features=(32,))
    module, rng = OctoModule.create(**config["model"]), np.random.default_rng(1)
    shapes = parameter_shapes(module, BATCH_OF_THREE)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    return OctoModel(module, None, config, params, BATCH_OF_THREE, None)


BATCH_OF_THREE = example_batch(image_size=8, proprio_dim=5, batch_size=BATCH, window_size=WINDOW)


@functools.cache
def loss_and_gradient(adjusted: bool):
    def loss(params, module, batch, factor):
        return head_loss(module, params, batch, jax.random.PRNGKey(0), False, factor if adjusted else None)[0]

    return jax.jit(jax.value_and_grad(loss), static_argnums=1)


def gradient(model, factor, batch=BATCH_OF_THREE):
    value, tree = loss_and_gradient(factor is not None)(model.params, model.module, batch, factor)
    return value, {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def one_sample(index):
    """The batch, of which the loss is that of one sample."""
    counted = np.arange(BATCH)[:, None, None, None] == index
    return BATCH_OF_THREE | {"action_pad_mask": BATCH_OF_THREE["action_pad_mask"] & counted}


def test_forward_is_identical_and_the_proprio_gradient_is_the_sum_of_samples_weighted_with_one_minus_rho(model):
    rho = np.array([0.0, 0.4, 1.0], np.float32)
    value, plain = gradient(model, None)
    same, adjusted = gradient(model, jnp.repeat(jnp.asarray(1 - rho)[:, None], WINDOW, 1))
    assert value == same
    singles = [gradient(model, None, one_sample(b))[1] for b in range(BATCH)]
    for path in plain:
        if path in OWN:
            expected = sum((1 - rho[b]) * singles[b][path] for b in range(BATCH)) / BATCH  # the loss is a mean
            np.testing.assert_allclose(adjusted[path], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        else:
            np.testing.assert_allclose(adjusted[path], plain[path], rtol=1e-5, atol=1e-8)


def test_the_group_is_exactly_the_leaves_before_the_transformer_and_an_encoder_is_none(model):
    assert set(match_group(model.params)) == OWN
    with pytest.raises(ConfigError, match="the model's groups are obs_primary, obs_proprio"):
        match_group(model.params, "obs_state")
    with pytest.raises(ConfigError, match="it is an encoder"):
        match_group(model.params, "obs_primary")


def test_tokens_that_are_not_there_and_factors_of_other_samples_are_refused(model):
    with pytest.raises(ConfigError, match="obs_state"), adjusted_gradients(jnp.ones((1, 1)), "obs_state"):
        pass
    observation, task = BATCH_OF_THREE["observation"], BATCH_OF_THREE["task"]
    with pytest.raises(ConfigError, match="obs_proprio"), adjusted_gradients(jnp.ones((1, WINDOW))):
        inputs = observation, task, observation["timestep_pad_mask"]
        model.module.apply({"params": model.params}, *inputs, method="octo_transformer")


@pytest.mark.parametrize("factor", [np.array([0.0, 0.5]), np.array([[0, 1], [1, 0]]), 0.5])
def test_factors_lie_along_the_first_axes_whatever_the_sizes_and_the_value_stays(factor):
    x = jnp.ones((2, 2, 2))
    expected = np.broadcast_to(np.reshape(factor, np.shape(factor) + (1,) * (3 - np.ndim(factor))), x.shape)
    value, back = jax.vjp(lambda x: scale_gradient(x, factor), x)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(back(x)[0], expected)


def test_half_precision_is_rounded_once_after_the_product():
    cotangent = jnp.linspace(1, 2, 101).astype(jnp.bfloat16)
    factor = 1 - jnp.linspace(0, 1, 101, dtype=jnp.float32)
    (found,) = jax.vjp(lambda x: scale_gradient(x, factor), jnp.ones(101, jnp.bfloat16))[1](cotangent)
    np.testing.assert_array_equal(found, (cotangent.astype(jnp.float32) * factor).astype(jnp.bfloat16))
    tx = scale_group_updates({"own": ()}, lambda count: 0.3)
    scaled, _ = tx.update({"own": cotangent}, tx.init({"own": cotangent}))
    np.testing.assert_array_equal(scaled["own"], (cotangent.astype(jnp.float32) * 0.3).astype(jnp.bfloat16))


PARAMS = {"own": jnp.ones(2), "other": jnp.ones(2)}
GRADIENTS = {"own": jnp.array([1.0, -2.0]), "other": jnp.array([1.0, -2.0])}


def adam_update(update_factor, gradients=GRADIENTS, weight_decay=0.1):
    tx = optax.chain(
        optax.scale_by_adam(),
        scale_group_updates({"own": (2,)}),
        optax.add_decayed_weights(weight_decay),
        optax.scale(-1.0),
    )
    return tx.update(gradients, tx.init(PARAMS), PARAMS, update_factor=update_factor)[0]


def test_a_group_that_is_not_there_is_noticed_when_the_optimizer_is_made_and_an_empty_one_must_be_meant():
    for group, said in (({}, "no parameter is named"), ({"owm": (2,)}, "no parameter 'owm'")):
        with pytest.raises(ConfigError, match=said):
            scale_group_updates(group, lambda count: 0.3).init(PARAMS)
    tx = scale_group_updates({}, may_be_empty=True)
    assert tx.update(GRADIENTS, tx.init(PARAMS), update_factor=0.3)[0] == GRADIENTS


def test_under_adam_a_constant_factor_on_the_gradient_hardly_changes_the_update_but_lambda_does():
    halved = scale_group_gradients(GRADIENTS, {"own": (2,)}, 0.5)
    np.testing.assert_allclose(adam_update(1.0, halved)["own"], adam_update(1.0)["own"], rtol=1e-6)
    assert np.abs(adam_update(0.5)["own"] - adam_update(1.0)["own"]).min() > 0.1


def test_a_schedule_takes_the_place_of_the_passed_factor():
    tx = scale_group_updates({"own": (2,)}, lambda count: jnp.where(count < 1, 0.3, 1.0))
    state = tx.init(PARAMS)
    first, state = tx.update(GRADIENTS, state)
    second, _ = tx.update(GRADIENTS, state)
    np.testing.assert_allclose(first["own"], 0.3 * GRADIENTS["own"], rtol=1e-6)
    np.testing.assert_array_equal(second["own"], GRADIENTS["own"])
