"""GAP that watches itself: what it measures, what it sets, and that it goes on where it was stopped."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_store
from toy_store import place_store, toy_config

from gap_vla.core.measurements import read_metrics
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies import watching
from gap_vla.policies.watching import GapWatched, share_of_vision
from gap_vla.training.run import Run, finetune
from gap_vla.training.torch_trainer import SmallTrainer

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
        (1.0, 0.0, 1.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 0.7),  # relies on nothing: what was known before
    ],
)
def test_the_share_of_vision_is_what_its_silence_costs_among_both(of_vision, of_proprio, share):
    policy = Reader(of_vision, of_proprio)
    found = share_of_vision(policy, Held(), torch.Generator(), otherwise=0.7)
    assert found == pytest.approx(share, abs=1e-6) and policy.training


def test_a_loss_that_draws_noise_draws_the_same_for_each_of_the_three():
    policy = Reader(0.0, 0.0)
    policy.head = SimpleNamespace(
        loss=lambda found, action, generator: (found - torch.randn(action.shape, generator=generator)).square()
    )
    for seed in range(20):
        assert share_of_vision(policy, Held(), torch.Generator().manual_seed(seed), otherwise=0.7) == 0.7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adjustment": {"mode": "none"}}, "adjustment.mode is 'none', and method gap_watched sets how deep it goes"),
        ({"adjustment": {"mode": "fixed"}}, "adjustment.mode is 'fixed', .* in mode 'sample' alone; take method gap"),
        ({"adjustment": {"mode": "sample_lambda"}}, "adjustment.mode is 'sample_lambda'"),
        ({"adjustment": {"mode": "batch"}}, "adjustment.mode is 'batch'"),
        ({"adjustment": {"mode": "update"}}, "adjustment.mode is 'update'"),
        ({"model": {"head": "gmm"}}, "method gap_watched compares losses as ratios, which head 'gmm' does not allow"),
    ],
)
def test_what_cannot_be_watched_is_refused(changes, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        toy_config(tmp_path, "gap_watched", **changes).require_ready()


def test_without_a_transition_nothing_is_measured():
    assert share_of_vision(Reader(1, 1), SimpleNamespace(transitions=np.zeros(0, int)), torch.Generator(), 0.2) == 0.2


def test_held_out_episodes_without_a_transition_are_refused_before_a_step(tmp_path, monkeypatch):
    strong = toy_store.episode
    monkeypatch.setattr(toy_store, "episode", lambda *a, **k: strong(*a, **k).replace(rho=0.45 * strong(*a, **k).rho))
    watched, gap = toy_config(tmp_path, "gap_watched"), toy_config(tmp_path, "gap")
    store = place_store(watched)
    with pytest.raises(ConfigError, match=r"store.*: no held-out step has rho above 0.5, and method gap_watched"):
        SmallTrainer.on(watched, store)
    SmallTrainer.on(gap, store)


def test_what_is_said_at_the_start_is_how_it_acts(tmp_path):
    said = SmallTrainer.dry_run(toy_config(tmp_path, "gap_watched", adjustment={"lam": 0.3, "window": 0.5}), {})
    assert "GAP: mode sample, lam 0.1 to 1, rho dataset (current) to the power 0.25 to 1, both by the share" in said
    assert "until vision has recovered, at most the first 75% of 12 steps, on proprio_encoder" in said


@pytest.mark.parametrize(
    ("shares", "lam", "power", "ended"),
    [
        ([0.0], 0.1, 0.25, False),
        ([0.25], 0.55, 0.625, False),
        ([0.6, 0.5], 1.0, 1.0, False),
        ([0.6, 0.4, 0.6, 0.6], 1.0, 1.0, False),
        ([0.6, 0.6, 0.5], 1.0, 1.0, True),
        ([0.5, 0.5, 0.5, 0.0], 1.0, 1.0, True),  # not measured any more
    ],
)
def test_lambda_and_rho_follow_the_share_until_vision_has_recovered(shares, lam, power, ended, monkeypatch, tmp_path):
    method, config = GapWatched(), toy_config(tmp_path, "gap_watched")
    schedule = config.schedule
    trainer = SimpleNamespace(
        policy=None, held_out=None, place=None, generator=lambda step: torch.Generator(), schedule=schedule, steps=1000
    )
    trainer.adjustment = SimpleNamespace(schedule=schedule)
    measured = iter(shares)
    monkeypatch.setattr(watching, "share_of_vision", lambda *_: next(measured))
    for step in range(len(shares) * watching.EVERY):
        method.before_step(trainer, step)
    rho = torch.tensor([[0.0], [0.3], [1.0]])
    factors = trainer.adjustment.schedule.factors(
        method.inputs({"rho": rho}, torch.Generator())["rho"].numpy(), step, 1000
    )
    if ended:
        assert factors.update == 1 and (factors.sample == 1).all()
    else:
        assert factors.update == pytest.approx(lam)
        np.testing.assert_allclose(factors.sample, 1 - rho.numpy() ** power, atol=1e-6)
    late = trainer.adjustment.schedule.factors(rho.numpy(), 750, 1000)
    assert late.update == 1 and (late.sample == 1).all()


def test_a_run_that_was_stopped_goes_on_with_what_it_had_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "EVERY", 3)
    monkeypatch.setattr(watching, "LITTLE", 0.0)
    config = toy_config(tmp_path, "gap_watched", train=dict(steps=12, save_every=4, log_every=1))
    place_store(config)
    whole = finetune(config, "whole")
    at, run = [], GapWatched.before_step

    def stopping(method, trainer, step):
        if step == 5 and not at:
            at.append(step)
            raise KeyboardInterrupt
        run(method, trainer, step)

    monkeypatch.setattr(GapWatched, "before_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, "stopped")
    assert finetune(config, "stopped", resume=True)["validation"] == whole["validation"]
    rows = [read_metrics(Run(config, name).directory.metrics) for name in ("whole", "stopped")]
    shares = [[row["gap/share_of_vision"] for row in found if "gap/share_of_vision" in row] for found in rows]
    assert shares[0] == shares[1] and len({*shares[0]}) > 1
