"""The methods that small policies are trained with: each learns, and GAP changes gradients only."""

import numpy as np
import pytest
import torch

from gap_vla.core.errors import ConfigError
from gap_vla.policies.config import RivalsConfig
from gap_vla.policies.methods import Forward, method_of
from gap_vla.policies.registry import METHODS, RECORDED, method_name
from gap_vla.policies.rivals import Keyframe
from gap_vla.training.torch_trainer import SmallTrainer
from tests.helpers.toy_store import toy_config, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("toy") / "store")


def trained(store, method, steps=6, **changes):
    """A trainer after some steps."""
    trainer = SmallTrainer.on(toy_config(store.directory, method, **changes), store)
    for step in range(steps):
        trainer.step(trainer.batch(step), step)
    return trainer


def weights(*args, **changes):
    return trained(*args, **changes).policy.state_dict()


def action_loss(trainer):
    with torch.no_grad():
        batch = trainer.windows.gather(np.arange(0, len(trainer.windows), 3))
        feature = trainer.policy.embed(*trainer.policy.branch_features(batch))
        return float(trainer.policy.head.loss(feature, batch["action"], trainer.generator(0)).mean())


OWN_CODE = {code: method for method, code in reversed(METHODS.items())}
"""One method of each class; the others differ in a setting or in where their ρ comes from alone."""


@pytest.mark.parametrize(
    "method", [pytest.param(n, marks=[pytest.mark.slow] * (n not in OWN_CODE.values())) for n in METHODS]
)
def test_every_method_learns_on_a_toy_set(method, store):
    before, trainer = action_loss(trained(store, method, 0)), trained(store, method, 25, train=dict(steps=40))
    assert action_loss(trainer) < 0.95 * before


@pytest.mark.parametrize("name", RECORDED)
def test_a_method_has_one_name_and_is_known_by_the_one_that_records_use(name):
    recorded = RECORDED[name]
    assert method_name(recorded) == method_name(name) == name
    assert type(method_of(recorded)) is type(method_of(name))
    config = toy_config("runs", recorded)
    assert config == toy_config("runs", name) and config.to_dict()["method"] == recorded
    with pytest.raises(ConfigError, match=f"'{name}_' is unknown.*{name}"):
        toy_config("runs", f"{name}_")


@pytest.mark.parametrize("changes", [{"model": dict(fusion="film")}, {"model": dict(head="diffusion")}])
def test_gap_with_rho_zero_and_lambda_one_is_vp_to_the_bit(changes, store):
    vp = weights(store, "vp", **changes)
    gap = weights(store, "lambda_only", adjustment=dict(lam=1.0, rho="current"), **changes)
    assert vp.keys() == gap.keys()
    assert all(torch.equal(vp[name], gap[name]) for name in vp)


def test_measuring_the_branches_does_not_change_the_step(store):
    plain, trainer = weights(store, "vp_gap"), trained(store, "vp_gap", 0)
    for step in range(6):
        measured = trainer.step(trainer.batch(step), step, measure=True).values()
    assert all(torch.equal(plain[name], value) for name, value in trainer.policy.state_dict().items())
    assert measured["branch/proprio_signal_transition"] > 0


def test_the_noise_of_a_step_is_its_own_and_the_same_when_it_is_made_again(store):
    trainer = trained(store, "vp", 0, model=dict(head="diffusion"), optimizer=dict(learning_rate=1e-9))
    batch = trainer.batch(0)
    losses = [float(trainer.step(batch, step).loss) for step in (0, 1, 2, 0)]
    assert len({round(loss, 4) for loss in losses[:3]}) == 3, "the head must see other noise at every step"
    assert losses[3] == pytest.approx(losses[0], rel=1e-4)


def test_the_held_out_measurements_are_means_over_all_held_out_windows(store):
    trainer = trained(store, "vp", 3)
    everything = trainer.held_out.gather(np.arange(len(trainer.held_out)))
    with torch.no_grad():
        error = (trainer.policy.eval()(everything) - everything["action"]).square().mean(-1)
    mask, transition = everything["action_pad_mask"], everything["transition"][:, None]
    found = trainer.validate()
    assert found["val/action_mse"] == pytest.approx(float(error[mask].mean()), rel=1e-5)
    assert found["val/loss_transition"] == pytest.approx(float(error[mask & transition].mean()), rel=1e-5)
    assert len(trainer.held_out) == 48  # the episodes of `val`, not those that are trained on


@pytest.mark.parametrize(("distance", "wanted"), [([0, 9], 3.0), ([0, 0], 0.0)])
def test_a_batch_of_keyframes_alone_that_weigh_nothing_teaches_nothing(distance, wanted):
    loss = torch.tensor([[1.0], [3.0]], requires_grad=True)
    batch = {"change_distance": torch.tensor(distance), "action_pad_mask": torch.ones(2, 1)}
    vars(out := object.__new__(Forward)).update(batch=batch, loss=loss)
    found = Keyframe(RivalsConfig(keyframe_weight=0.0, keyframe_radius=5)).loss(out, torch.Generator())
    found.backward()
    assert found == wanted and torch.isfinite(loss.grad).all()


@pytest.mark.parametrize("method", ["gradnorm", "ogm_ge", "gap_watched"])
def test_a_method_that_compares_losses_as_ratios_refuses_one_that_can_be_negative(method):
    config = toy_config("runs", method, model=dict(head="gmm"))
    with pytest.raises(ConfigError, match=rf"{method}.*gmm"):
        config.how.check(method, config.model)
