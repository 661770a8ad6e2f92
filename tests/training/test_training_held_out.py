"""What a run's held-out error is compared with: the error of always predicting the training episodes' mean action."""

import contextlib
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from short_training import MODEL, TRAIN

from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.training.data import require_held_out
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import LOSSES, OctoTrainer


@pytest.fixture(scope="module")
def trainers(store):
    """Before its first step, the trainer of a normalisation; each is made once."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def of(normalization):
            values = {"task": "threading", "model": MODEL, "train": TRAIN, "eval": {"execute": 1}}
            config = FinetuneConfig.from_dict({**values, "data": {"normalization": normalization}})
            return stack.enter_context(contextlib.closing(OctoTrainer.on(config, EpisodeStore.open(store))))

        yield of


@pytest.mark.parametrize("normalization", [pytest.param("normal", marks=pytest.mark.slow), "bounds"])
def test_the_mean_action_is_that_of_the_training_episodes_in_every_normalisation(normalization, store, trainers):
    episodes = EpisodeStore.open(store)
    found = trainers(normalization).validate()["val/mean_action_mse"]
    asked = {"window_size": 2, "action_horizon": 3, "normalization": normalization}
    loader = WindowLoader(episodes, split="val", batch_size=1000, seed=0, train=False, **asked)
    batch = next(iter(loader))
    target, counted = batch["action"][:, -1], batch["action_pad_mask"][:, -1]
    of, mean = episodes.statistics["action"], np.asarray(episodes.split("train").fields["action"], np.float64).mean(0)
    if normalization == "normal":
        mean[of["mask"]] = 0
    else:
        low, high = of["p01"], of["p99"]
        mean[of["mask"]] = (2 * (mean - low) / (high - low + 1e-8) - 1)[of["mask"]]
    errors = np.square(target - mean)[np.broadcast_to(counted, target.shape)]
    assert found == pytest.approx(errors.mean(), rel=1e-3)
    at_zero = np.square(target)[np.broadcast_to(counted, target.shape)].mean()
    assert found < 0.999 * at_zero, "0 is not the mean of an action that is not centred"


def test_held_out_windows_are_read_again_at_every_validation_and_not_kept(trainers):
    trainer = trainers("bounds")
    assert (trainer.reads_instructions, trainer.largest_action) == (False, 5.0)
    assert isinstance(trainer._held_out, WindowLoader)
    assert trainer.validate() == trainer.validate()


def test_the_losses_of_transitions_and_of_the_others_are_parts_of_the_whole_also_where_a_head_draws_noise(store):
    values = {"task": "threading", "train": TRAIN, "eval": {"execute": 1}, "model": {**MODEL, "head": "diffusion"}}
    config = FinetuneConfig.from_dict(values)
    with contextlib.closing(OctoTrainer.on(config, EpisodeStore.open(store))) as trainer:
        batch = trainer.built.inputs(next(iter(trainer._held_out)))
        rng = jax.random.PRNGKey(0)
        found = trainer._validation_step(trainer.state.params, trainer.frozen, batch, rng)
    whole, transition, consistent = (float(found[name]) for name in LOSSES)
    assert whole == pytest.approx(transition + consistent, rel=1e-5) and transition > 0 < consistent


def store_of(train, held_out):
    def split(name, episodes):
        fields = {"proprio": np.concatenate(episodes), "action": np.concatenate(episodes)[:, :7]}
        return SimpleNamespace(name=name, fields=fields, offsets=np.cumsum([0, *map(len, episodes)]))

    return SimpleNamespace(source="data", splits={"train": split("train", train), "val": split("val", held_out)})


WALK = np.random.default_rng(0).normal(size=(2, 60, 9)).astype(np.float32)
STILL = np.ones_like(WALK[0])


@pytest.mark.parametrize(
    ("trained", "held_out", "said"),
    [
        (WALK[0], WALK[0], r"train\[1\] has the states and actions of val\[1\], which is held out"),
        (WALK[0, :5], WALK[0, :5], r"of val\[1\], which is held out"),
        (WALK[0], WALK[0, :-1], r"of val\[1\] in its first 59 steps, which is held out"),
        (WALK[0, :-1], WALK[0], "in its first 59 steps"),
        (WALK[0], np.concatenate([WALK[0, :40], WALK[1, :20]]), "in its first 40 steps"),
        (WALK[0], np.concatenate([WALK[0, :25], WALK[1, :35]]), ""),  # as from home in a simulation
        (WALK[0], WALK[0, :10], ""),
        (WALK[0], WALK[1], ""),
        (np.concatenate([STILL, WALK[0]]), np.concatenate([STILL, WALK[1]]), ""),
    ],
)
def test_a_held_out_episode_is_not_trained_on_though_it_was_cut_off(trained, held_out, said):
    store = store_of([WALK[1, ::-1], trained], [WALK[0, ::-1], held_out])
    other = store_of([WALK[1, ::-1], trained], [WALK[1]])
    alone = store_of([WALK[1, ::-1]], [WALK[0, ::-1], held_out])
    if not said:
        require_held_out(store, {"other": other})
        return
    with pytest.raises(ConfigError, match=said):
        require_held_out(store, {})
    with pytest.raises(ConfigError, match=r"data\.mixture: train\[1\] of other is val\[1\] of the main dataset"):
        require_held_out(alone, {"other": other})
