"""What is measured on held-out episodes, and that nothing of it is trained on."""

import contextlib

import numpy as np
import pytest
import torch

from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.store import EpisodeStore, write_store
from tests.helpers.made_up_demos import made_up_episodes
from tests.training.conftest import configured


@pytest.fixture
def trainer(store):
    """Of a configuration, before its first step."""
    with contextlib.ExitStack() as stack:

        def of(backend, **sections):
            config = configured(backend, **sections)
            made = config.trainer().on(config, EpisodeStore.open(store))
            return stack.enter_context(contextlib.closing(made))

        yield of


@pytest.mark.parametrize("normalization", ["normal", "bounds"])
def test_the_mean_action_is_that_of_the_training_episodes(normalization, store, trainer):
    episodes = EpisodeStore.open(store)
    found = trainer("octo", data={"normalization": normalization}).validate()["val/mean_action_mse"]
    asked = {"window_size": 2, "action_horizon": 3, "normalization": normalization}
    batch = next(iter(WindowLoader(episodes, split="val", batch_size=1000, seed=0, train=False, **asked)))
    target, counted = batch["action"][:, -1], batch["action_pad_mask"][:, -1]
    of, mean = episodes.statistics["action"], np.asarray(episodes.split("train").fields["action"], np.float64).mean(0)
    mask = np.asarray(of["mask"], bool)
    if normalization == "normal":
        mean[mask] = 0
    else:
        low, high = np.asarray(of["p01"]), np.asarray(of["p99"])
        mean[mask] = (2 * (mean - low) / (high - low + 1e-8) - 1)[mask]
    errors = np.square(target - mean)[np.broadcast_to(counted, target.shape)]
    assert found == pytest.approx(errors.mean(), rel=1e-3)


def test_every_validation_measures_the_same_also_with_a_head_that_draws_noise(trainer):
    made = trainer("torch", model={"head": "diffusion"})
    assert made.validate() == made.validate()


def test_the_losses_by_rho_are_parts_of_the_whole(store, trainer):
    found = trainer("torch").validate()
    split = EpisodeStore.open(store).split("val")
    share = np.mean(np.asarray(split.fields["rho"]) > 0.5)
    low, high = sorted((found["val/loss_transition"], found["val/loss_consistent"]))
    assert 0 < share < 1 and low < found["val/loss"] < high


def test_batch_norm_does_not_learn_from_held_out_episodes_and_trains_afterwards(trainer):
    made = trainer("torch")
    made.policy.register_module("norm", torch.nn.BatchNorm1d(3))
    shown = []
    made.policy.norm.register_forward_hook(lambda norm, *_: shown.append(norm.training))
    branch_features = made.policy.branch_features

    def with_norm(batch):
        made.policy.norm(torch.randn(4, 3))
        return branch_features(batch)

    made.policy.branch_features = with_norm
    before = made.policy.norm.running_mean.clone()
    made.validate()
    assert shown and not any(shown) and torch.equal(before, made.policy.norm.running_mean)
    shown.clear()
    made.step(made.batch(0), 0)
    assert shown == [True] and not torch.equal(before, made.policy.norm.running_mean)


def test_a_step_of_octo_draws_other_noise_than_the_one_before(store, trainer):
    made = trainer("octo", model={"head": "diffusion"}, optimizer={"learning_rate": 1e-12})
    batch = made.batch(0)
    losses = [float(made.step(batch, step, measure=False).loss) for step in range(3)]
    assert len({*losses}) == 3


def test_a_dataset_without_held_out_episodes_trains(tmp_path):
    (tmp_path / "store").mkdir()
    write_store(tmp_path / "store", {"train": made_up_episodes()}, source="all", source_hash="all")
    for backend in ("octo", "torch"):
        config = configured(backend)
        with contextlib.closing(config.trainer().on(config, EpisodeStore.open(tmp_path / "store"))) as made:
            assert made.validate() == {}
