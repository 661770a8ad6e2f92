"""Predictors find in the demonstrations which input the actions follow from, and where."""

import dataclasses
import types

import numpy as np
import pytest

from experiments.looks import predictors as module
from experiments.looks.linear_probe import ProbeError
from experiments.looks.predictors import INPUTS, action_errors, predictors
from gap_vla.core.episode import Episode
from gap_vla.training.torch import SmallConfig

EPISODES, STEPS = 24, 40


@pytest.fixture(autouse=True)
def few_features(monkeypatch):
    monkeypatch.setattr(module, "FOURIER", 150)


def rows(seed=0):
    """Between transitions the action is a curve of the state, in transitions it is what only the goal tells."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(EPISODES), STEPS)
    state, goal = rng.normal(size=(len(number), 2)), rng.normal(size=(len(number), 1))
    transition = rng.random(len(number)) < 0.3
    actions = np.where(transition[:, None], np.sin(goal), np.cos(1.5 * state[:, :1]))
    return state, goal, actions, transition, number


@pytest.mark.slow
def test_the_error_is_small_for_the_input_that_the_actions_follow_from():
    state, goal, actions, transition, number = rows()
    inputs = {"state": state, "goal": goal, "both": np.concatenate([state, goal], 1), "noise": goal[::-1].copy()}
    found = action_errors(inputs, actions, transition, number)
    assert found["state"]["between"] < 0.5 < 0.9 < found["state"]["transitions"]
    assert found["goal"]["transitions"] < 0.75 < 0.9 < found["goal"]["between"]
    assert found["both"]["all"] < min(found["state"]["all"], found["goal"]["all"])
    assert found["noise"]["all"] > 0.95
    assert action_errors({"goal": goal}, actions, transition, number) == {"goal": found["goal"]}


def test_without_transitions_nothing_is_said_of_them_and_few_episodes_are_refused():
    state, _, actions, transition, number = rows()
    found = action_errors({"state": state}, actions, np.zeros_like(transition), number)
    assert set(found["state"]) == {"all", "between"}
    still = np.stack([np.arange(3000.0), np.full(3000, 57.3)], 1).astype(np.float32)
    assert module.fourier_features(still).shape[1] == module.FOURIER + 1
    with pytest.raises(ProbeError, match="needs 5 or more"):
        action_errors({"state": state[:80]}, actions[:80], transition[:80], number[:80])


def test_they_are_measured_on_the_training_episodes_of_a_store(monkeypatch):
    monkeypatch.setattr(module, "FOURIER", 40)
    rng = np.random.default_rng(0)

    def episode():
        state = np.cumsum(rng.normal(0, 0.1, (STEPS, 9)), 0).astype(np.float32)
        bright = rng.integers(0, 256, (STEPS, 1, 1, 3), np.uint8)
        pictures = np.broadcast_to(bright, (STEPS, 32, 32, 3))
        action = np.concatenate([np.tanh(state[:, :6]), bright[:, 0, 0, :1] / 255], 1).astype(np.float32)
        rho = (np.arange(STEPS) % 8 < 3).astype(np.float32)
        return Episode({"image_primary": pictures}, state, action, rho=rho)

    episodes = [episode() for _ in range(8)]
    split = type("Split", (), {"episode": lambda self, n: episodes[n], "__len__": lambda self: 8})()
    asked = []
    store = types.SimpleNamespace(split=lambda name: asked.append(name) or split)
    config = SmallConfig("assembly")
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, encoder_width=8, feature_dim=16, action_horizon=2)
    )
    found = predictors(config, store)
    assert asked == ["train"] and found["episodes"] == 8 and found["steps"] == 8 * 20
    assert tuple(found["errors"]) == INPUTS and found["in_transitions"] == 0.5
    errors = {name: parts["all"] for name, parts in found["errors"].items()}
    assert errors["state"] < errors["time"] and errors["history+pictures"] < errors["pictures"]
