"""An Octo that sees several states: the tokens in training, the checkpoint, and the same tokens in rollouts."""

import numpy as np
import pytest
from short_training import MODEL

from gap_vla.octo import CheckpointError, OctoModel
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.rollouts.octo_policy import OctoPolicy

STATES = 3


@pytest.fixture(scope="module")
def checkpoint(training):
    return training.run("states", method="vp_gap", model=MODEL | {"proprio_history": STATES}) / "checkpoint"


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


def test_every_number_of_every_state_is_a_token_and_gap_adjusts_the_same_three_leaves(checkpoint, training):
    embeddings = [
        next(leaf for name, leaf in training.parameters(run).items() if "obs_proprio_pos_embedding" in name)
        for run in ("states", "whole")
        if training.run("whole", method="vp_gap")
    ]
    assert embeddings[0].shape[2] == STATES * embeddings[1].shape[2]
    assert OctoModel.load_pretrained(checkpoint).config["proprio_history"] == STATES


def test_a_rollout_shows_the_network_what_training_showed_it(checkpoint, store, monkeypatch):
    policy = OctoPolicy.load(checkpoint, batch_size=1)
    seen = []
    run = policy._run
    monkeypatch.setattr(
        policy, "_run", lambda params, observation, *rest: seen.append(observation) or run(params, observation, *rest)
    )
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
