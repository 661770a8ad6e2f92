"""Each rival does what its equation says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import batch_of, linear_training, neutral

from gap_vla.core.typed_config import ConfigError
from gap_vla.training.config import METHODS, FinetuneConfig
from gap_vla.training.rivals import RIVALS, rival_of


def test_every_rival_is_a_method_that_trains_with_proprioception():
    for name in RIVALS:
        config = FinetuneConfig.from_dict({"task": "threading", "method": name})
        assert name in METHODS and config.uses_proprio
        assert FinetuneConfig.from_dict(config.to_dict()) == config


def test_options_of_a_rival_are_checked_by_name_and_value():
    for values, message in (
        ({"method": "proprio_mask", "rival": {"probabilty": 0.1}}, r"rival\.probabilty is no option.*probability"),
        ({"method": "proprio_mask", "rival": {"probability": 1.5}}, r"rival\.probability is 1\.5"),
        ({"method": "vp_gap", "rival": {"alpha": 1.0}}, "method vp_gap is none of"),
    ):
        with pytest.raises(ConfigError, match=message):
            FinetuneConfig.from_dict({"task": "threading", **values})


def test_a_constant_learning_rate_scales_the_update_during_all_of_training():
    schedule = FinetuneConfig.from_dict(
        {"task": "threading", "method": "constant_lr", "rival": {"factor": 0.4}}
    ).schedule
    rho = np.full((2, 1), 0.9, np.float32)
    for step in (0, 50, 99):
        factors = schedule.factors(rho, step, 100)
        assert factors.update == np.float32(0.4) and factors.gradient == 1 and (factors.sample == 1).all()
    assert not schedule.needs_rho


@pytest.mark.parametrize("name", ["proprio_mask", "proprio_dropout", "proprio_noise"])
def test_input_rivals_change_only_proprioception_and_the_same_way_after_a_resume(name):
    batch = batch_of()
    before = batch["observation"]["proprio"].copy()
    rival = rival_of(name)
    changed = rival.batch(batch, 7, 0)
    np.testing.assert_array_equal(batch["observation"]["proprio"], before)
    assert changed["observation"]["image_primary"] is batch["observation"]["image_primary"]
    found = changed["observation"]["proprio"]
    assert found.dtype == np.float32 and not np.array_equal(found, before)
    np.testing.assert_array_equal(rival.batch(batch, 7, 0)["observation"]["proprio"], found)
    assert not np.array_equal(rival.batch(batch, 8, 0)["observation"]["proprio"], found)


def test_masking_hides_whole_samples_with_the_given_probability():
    batch = batch_of(size=4000)
    found = rival_of("proprio_mask", {"probability": 0.3}).batch(batch, 0, 0)["observation"]["proprio"]
    hidden = (found == 0).all((1, 2))
    assert ((found == 0).any((1, 2)) == hidden).all() and abs(hidden.mean() - 0.3) < 0.03
    np.testing.assert_array_equal(found[~hidden], batch["observation"]["proprio"][~hidden])


def test_dropout_drops_single_numbers_and_scales_the_others():
    batch = batch_of(size=4000)
    found = rival_of("proprio_dropout", {"probability": 0.2}).batch(batch, 0, 0)["observation"]["proprio"]
    before = batch["observation"]["proprio"]
    assert abs((found == 0).mean() - 0.2) < 0.02
    np.testing.assert_allclose(found[found != 0], before[found != 0] / 0.8, rtol=1e-6)


def test_noise_has_the_given_standard_deviation():
    batch = batch_of(size=4000)
    found = rival_of("proprio_noise", {"std": 0.5}).batch(batch, 0, 0)["observation"]["proprio"]
    assert abs((found - batch["observation"]["proprio"]).std() - 0.5) < 0.02


GRADIENTS = {"vision/kernel": jnp.array([3.0, 4.0]), "proprio/kernel": jnp.array([1.0]), "shared/rest": jnp.ones(2)}


def test_gradnorm_moves_the_weights_by_the_gradient_of_its_loss():
    rival = rival_of("gradnorm", {"rate": 0.1})
    weights, norms = np.array([1.2, 0.8]), np.array([5.0, 1.0])  # of vision and proprio

    def loss(weights):
        target = jax.lax.stop_gradient((weights * norms).mean())
        return jnp.abs(weights * norms - target).sum() / target

    expected = weights - 0.1 * np.asarray(jax.grad(loss)(jnp.asarray(weights)))
    expected = 2 * expected / expected.sum()
    gradients, factors, memory = rival.adjust({"weights": jnp.asarray(weights)}, GRADIENTS, None, {}, None)
    assert gradients is GRADIENTS
    np.testing.assert_allclose(memory["weights"], expected, rtol=1e-6)
    np.testing.assert_allclose([factors["vision"], factors["proprio"]], expected, rtol=1e-6)


def test_gradnorm_settles_where_the_weighted_norms_are_equal():
    rival, memory = rival_of("gradnorm", {"rate": 0.01}), {"weights": jnp.ones(2)}
    adjust = jax.jit(lambda memory: rival.adjust(memory, GRADIENTS, None, {}, None)[2])
    for _ in range(300):
        memory = adjust(memory)
    np.testing.assert_allclose(memory["weights"] * np.array([5.0, 1.0]), 5 / 3, rtol=0.05)  # w_v 5 = w_p 1, sum 2


def test_ogm_ge_holds_the_branch_back_that_predicts_better_alone():
    rival, batch = rival_of("ogm_ge", {"alpha": 0.5, "enhancement": False}), batch_of()

    def loss_of(batch):  # 0.8 from pictures alone, 0.2 from the state alone
        return jnp.where(jnp.any(batch["observation"]["proprio"] != 0), 0.2, 0.8)

    gradients, factors, _ = rival.adjust({}, GRADIENTS, loss_of, batch, jax.random.PRNGKey(0))
    np.testing.assert_allclose(factors["proprio"], 1 - np.tanh(0.5 * 4), rtol=1e-6)
    assert factors["vision"] == 1 and gradients is GRADIENTS


def test_ogm_ge_adds_noise_with_the_spread_of_the_branchs_gradient():
    own = {"vision/kernel": jnp.asarray(np.random.default_rng(0).normal(3, 2, 20_000)), "shared/rest": jnp.ones(2)}
    rival = rival_of("ogm_ge")
    found, _, _ = rival.adjust({}, own, lambda batch: jnp.ones([]), batch_of(), jax.random.PRNGKey(0))
    noise = np.asarray(found["vision/kernel"] - own["vision/kernel"])
    assert abs(noise.std() - 2) < 0.05 and abs(noise.mean()) < 0.05
    np.testing.assert_array_equal(found["shared/rest"], own["shared/rest"])


def test_blanking_leaves_the_other_modality():
    from gap_vla.training.rivals.ogm_ge import without_images, without_proprio

    batch = batch_of()
    blind, numb = without_images(batch)["observation"], without_proprio(batch)["observation"]
    assert not blind["image_primary"].any() and not blind["pad_mask_dict"]["image_primary"].any()
    np.testing.assert_array_equal(blind["proprio"], batch["observation"]["proprio"])
    assert not numb["proprio"].any() and numb["image_primary"] is batch["observation"]["image_primary"]


def test_a_rivals_factors_multiply_the_branchs_update():
    batch, moved = batch_of(), {}
    for rival in (None, rival_of("gradnorm", {"rate": 0.3})):
        state, step, _ = linear_training(rival, weight_decay=0.0)
        before = {label: np.asarray(vector) for label, vector in state.params.items()}
        state, measured = step(state, batch, neutral(batch))
        moved[rival is not None] = {label: np.asarray(state.params[label]) - before[label] for label in before}
    for branch in ("vision", "proprio"):
        expected = measured[f"rival_factor/{branch}"] * moved[False][f"{branch}/kernel"]
        np.testing.assert_allclose(moved[True][f"{branch}/kernel"], expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(moved[True]["shared/kernel"], moved[False]["shared/kernel"])
    assert measured["rival_factor/vision"] != 1
