"""GAP that watches itself: what it measures, what it sets, and that it goes on where it was stopped."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gap_vla.core.errors import ConfigError
from gap_vla.policies import watching
from gap_vla.policies.watching import GapWatched, share_of_vision
from gap_vla.training.torch_trainer import SmallTrainer
from tests.helpers.toy_store import toy_config, write_store

WINDOWS = 6


class Reader(torch.nn.Module):
    """A policy whose action is so much of its picture's number plus so much of its state's."""

    def __init__(self, of_vision, of_proprio):
        super().__init__()
        self.weights = of_vision, of_proprio
        self.head = SimpleNamespace(loss=lambda found, action, generator: (found - action).square())

    def branch_features(self, batch):
        return batch["picture"], batch["proprio"]

    def embed(self, vision, proprio):
        return self.weights[0] * vision + self.weights[1] * proprio


class Held:
    """Windows in which the right action is that of the picture; pictures and states are independent."""

    transitions = np.arange(WINDOWS)

    def gather(self, numbers):
        assert list(numbers) == list(self.transitions)
        picture = torch.tensor([[-1.0], [1.0]] * (WINDOWS // 2))
        proprio = torch.tensor([[-1.0], [-1.0], [1.0], [1.0], [0.0], [0.0]])
        mask = torch.ones(WINDOWS, 1, dtype=torch.bool)
        return {"picture": picture, "proprio": proprio, "action": picture + proprio, "action_pad_mask": mask}


@pytest.mark.parametrize(
    ("of_vision", "of_proprio", "share"),
    [
        # silencing a branch of weight 1 costs the variance of its numbers: 1 for the picture, 2 / 3 for the state
        (1.0, 1.0, 0.6),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 0.7),  # relies on nothing: what was known before
    ],
)
def test_the_share_of_vision_is_what_its_silence_costs_among_both(of_vision, of_proprio, share):
    policy = Reader(of_vision, of_proprio)
    found = share_of_vision(policy, Held(), torch.Generator(), otherwise=0.7)
    assert found == pytest.approx(share, abs=1e-6) and policy.training


def test_held_out_episodes_without_a_transition_are_refused_before_a_step(tmp_path):
    nothing = SimpleNamespace(transitions=np.zeros(0, int))
    assert share_of_vision(Reader(1, 1), nothing, torch.Generator(), 0.2) == 0.2
    with pytest.raises(ConfigError, match="gap_watched"):
        GapWatched().check_held_out(nothing, "here")


@pytest.mark.parametrize(
    ("shares", "lam", "power", "ended"),
    [
        ([0.25], 0.55, 0.625, False),
        ([0.6, 0.4, 0.6, 0.6], 1.0, 1.0, False),
        ([0.6, 0.6, 0.5], 1.0, 1.0, True),
        ([0.5, 0.5, 0.5, 0.0], 1.0, 1.0, True),  # not measured any more
    ],
)
def test_lambda_and_rho_follow_the_share_until_vision_has_recovered(shares, lam, power, ended, monkeypatch, tmp_path):
    method, schedule = GapWatched(), toy_config(tmp_path, "gap_watched").schedule
    trainer = SimpleNamespace(
        policy=None, held_out=None, place=None, generator=lambda step: torch.Generator(), schedule=schedule, steps=1000
    )
    trainer.adjustment = SimpleNamespace(schedule=schedule)
    measured = iter(shares)
    monkeypatch.setattr(watching, "share_of_vision", lambda *_: next(measured))
    for step in range(len(shares) * watching.EVERY):
        method.before_step(trainer, step)
    rho = torch.tensor([[0.0], [0.3], [1.0]])
    shown = method.inputs({"rho": rho, "target_rho": rho}, torch.Generator())["rho"].numpy()
    factors = trainer.adjustment.schedule.factors(shown, step, 1000)
    if ended:
        assert factors.update == 1 and (factors.sample == 1).all()
    else:
        assert factors.update == pytest.approx(lam)
        np.testing.assert_allclose(factors.sample, 1 - rho.numpy() ** power, atol=1e-6)
    late = trainer.adjustment.schedule.factors(rho.numpy(), 750, 1000)
    assert late.update == 1 and (late.sample == 1).all()


def test_what_was_measured_is_part_of_the_state_and_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LITTLE", 0.0)
    store, config = write_store(tmp_path / "store"), toy_config(tmp_path, "gap_watched")
    trainer, again = SmallTrainer.on(config, store), GapWatched()
    trainer.step(trainer.batch(0), 0)
    state = trainer.state()["method"]
    again.restore(state)
    assert state["share"] > 0 and again.state() == state
    assert again.measurements() == trainer.method.measurements()
