"""An Octo that sees several states: the tokens in training, the checkpoint, and the same tokens in rollouts."""

import contextlib

import jax
import numpy as np
import pytest
from short_training import MODEL, TRAIN

from gap_vla.core.run_directory import RunDirectory
from gap_vla.octo import CheckpointError, OctoModel
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.rollouts.octo_policy import OctoPolicy
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import OctoTrainer

STATES = 3


@pytest.fixture(scope="module")
def checkpoint(store, tmp_path_factory):
    """Of a policy before its first step."""
    model = MODEL | {"proprio_history": STATES, "window_size": 2}
    config = FinetuneConfig.from_dict({"task": "threading", "model": model, "train": TRAIN, "eval": {"execute": 1}})
    run = RunDirectory.claim(tmp_path_factory.mktemp("states") / "run", config.to_dict(), resume=False)
    with contextlib.closing(OctoTrainer.on(config, EpisodeStore.open(store))) as trainer:
        trainer.export(run)
    return run.checkpoint


def windows(store, states):
    asked = {"window_size": 2, "action_horizon": 3, "proprio_history": states}
    loader = WindowLoader(EpisodeStore.open(store), split="val", batch_size=1000, seed=0, train=False, **asked)
    return next(iter(loader))["observation"]


def test_a_step_shows_its_last_states_side_by_side_and_the_first_one_before_the_start(store):
    one, three = (windows(store, states)["proprio"] for states in (1, STATES))
    assert three.shape == (*one.shape[:2], STATES * one.shape[2])
    steps = windows(store, 1)["timestep"][:, -1]
    present, width = one[:, -1], one.shape[2]
    for window, step in enumerate(steps):
        wanted = np.concatenate([present[window - min(ago, step)] for ago in (2, 1, 0)])
        np.testing.assert_array_equal(three[window, -1], wanted)
    np.testing.assert_array_equal(three[:, :, -width:], one)


def test_every_number_of_every_state_is_a_token_and_gap_adjusts_the_same_three_leaves(checkpoint, store):
    model = OctoModel.load_pretrained(checkpoint)
    leaves = jax.tree_util.tree_flatten_with_path(model.params)[0]
    proprio = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    proprio = {name: shape for name, shape in proprio.items() if "obs_proprio" in name}
    width = EpisodeStore.open(store).split("train").fields["proprio"].shape[1]
    (embedding,) = (shape for name, shape in proprio.items() if "pos_embedding" in name)
    assert len(proprio) == 3 and embedding[2] == STATES * width and model.config["proprio_history"] == STATES


def test_a_rollout_shows_the_network_what_training_showed_it(checkpoint, store, monkeypatch):
    policy = OctoPolicy.load(checkpoint, batch_size=1)
    seen, run = [], policy._run

    def recording(params, observation, *rest):
        seen.append(observation)
        return run(params, observation, *rest)

    monkeypatch.setattr(policy, "_run", recording)
    episode = EpisodeStore.open(store).split("val").episode(0)
    policy.reset([0])
    for step in range(len(episode)):
        shown = {"image_primary": episode.images["image_primary"][step][None], "proprio": episode.proprio[step][None]}
        policy.act(shown, [0])
    expected = windows(store, STATES)
    assert policy.proprio_dim == episode.proprio.shape[1]
    for key in ("proprio", "timestep", "timestep_pad_mask"):
        found = np.concatenate([observation[key] for observation in seen])
        np.testing.assert_allclose(found, expected[key][: len(episode)], atol=1e-5, err_msg=key)


@pytest.mark.parametrize("states", [0, 2.5, "3", 65])
def test_a_checkpoint_with_an_impossible_number_of_states_is_refused(checkpoint, states):
    model = OctoModel.load_pretrained(checkpoint)
    model.config["proprio_history"] = states
    with pytest.raises(CheckpointError, match="proprio_history"):
        OctoPolicy(model)
