"""Looks: probes find what is there on episodes that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.looks import predictors
from experiments.looks.predictors import action_errors
from experiments.looks.ridge import probe_positions
from gap_vla.core.errors import UserError

EPISODES, STEPS, WIDTH = 30, 20, 24


def test_a_planted_position_is_found_on_held_out_episodes_and_a_shuffled_one_is_not():
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    position = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0) + rng.normal(0, 0.002, (600, 3))
    hidden = np.concatenate([position / 0.1, rng.normal(size=(600, WIDTH - 3))], axis=1)
    features = hidden @ rng.normal(size=(WIDTH, WIDTH)) + rng.normal(0, 0.01, (600, WIDTH))
    found = probe_positions(features, position, episodes)
    assert found["error"] < 0.01 < found["mean_error"]
    order = np.random.default_rng(1).permutation(EPISODES)
    shuffled = probe_positions(features, position.reshape(EPISODES, STEPS, 3)[order].reshape(-1, 3), episodes)
    assert shuffled["error"] >= 0.95 * shuffled["mean_error"]


def test_an_episodes_number_in_the_features_helps_nobody():
    """A probe that saw other steps of the same episode would be perfect here."""
    rng = np.random.default_rng(2)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    position = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0)
    found = probe_positions(np.eye(EPISODES)[episodes], position, episodes)
    assert found["error"] > 0.9 * found["mean_error"]
    with pytest.raises(UserError, match="4 episode"):
        probe_positions(position[:80], position[:80], episodes[:80])


def test_the_error_is_small_for_the_input_that_the_actions_follow_from(monkeypatch):
    """Between transitions the action is a curve of the state, in transitions it is what only the goal tells."""
    monkeypatch.setattr(predictors, "FOURIER", 60)
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(16), 40)
    state, goal = rng.normal(size=(len(number), 2)), rng.normal(size=(len(number), 1))
    transition = rng.random(len(number)) < 0.3
    actions = np.where(transition[:, None], np.sin(goal), np.cos(1.5 * state[:, :1]))
    found = action_errors({"state": state, "goal": goal}, actions, transition, number)
    assert found["state"]["between"] < 0.6 < 0.9 < found["state"]["transitions"]
    assert found["goal"]["transitions"] < 0.8 < 0.9 < found["goal"]["between"]
