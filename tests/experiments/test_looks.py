"""Looks: probes find what is there on episodes that they have not seen; another policy acts exactly in its window."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.looks import predictors, probe
from experiments.looks.predictors import action_errors
from experiments.looks.ridge import probe_positions
from experiments.looks.takeover import LENGTH, PHASE_KEY, TakeoverPolicy, WatchedTask
from gap_vla.core.errors import UserError
from gap_vla.policies.config import SmallModelConfig
from gap_vla.rollouts.task import sim_task

EPISODES, STEPS, WIDTH = 30, 20, 24


def test_a_planted_position_is_found_on_held_out_episodes_and_a_shuffled_one_is_not():
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    position = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0) + rng.normal(0, 0.002, (600, 3))
    hidden = np.concatenate([position / 0.1, rng.normal(size=(600, WIDTH - 3))], axis=1)
    features = hidden @ rng.normal(size=(WIDTH, WIDTH)) + rng.normal(0, 0.01, (600, WIDTH))
    found = probe_positions(features, position, episodes)
    assert found["r2"] > 0.95 and found["r2_interval"][0] > 0.9 and found["error"] < 0.01 < found["mean_error"]
    order = np.random.default_rng(1).permutation(EPISODES)
    shuffled = probe_positions(features, position.reshape(EPISODES, STEPS, 3)[order].reshape(-1, 3), episodes)
    assert shuffled["r2"] < 0.05 and shuffled["error"] >= 0.95 * shuffled["mean_error"]


def test_an_episodes_number_in_the_features_helps_nobody():
    """A probe that saw other steps of the same episode would be perfect here."""
    rng = np.random.default_rng(2)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    position = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0)
    assert probe_positions(np.eye(EPISODES)[episodes], position, episodes)["r2"] < 0.05
    with pytest.raises(UserError, match="4 episode"):
        probe_positions(position[:80], position[:80], episodes[:80])


def test_runs_are_probed_for_what_moves_beside_an_untrained_policy(monkeypatch):
    rng = np.random.default_rng(4)
    episodes, images = np.repeat(np.arange(6), 5), {"image_primary": rng.integers(0, 256, (30, 16, 16, 3), np.uint8)}
    positions = {"ring": rng.normal(size=(30, 3)), "table": np.zeros((30, 3))}
    data = probe.ProbeData(images, positions, np.arange(30) % 5 < 3, episodes)
    policy = probe.fresh_policy(SmallModelConfig(feature_dim=8), "vp", (16, 16, 3), 9, 7, ("primary",))
    for name, value in (("model_of", policy), ("collect_probe_demos", None), ("read_probe_data", data)):
        monkeypatch.setattr(probe, name, lambda *_, value=value, **__: value)
    found = probe.probe_runs([SimpleNamespace(label="mine", small=True)], 6, 1)
    assert found["mine"] == found["untrained"] and list(found["mine"]) == ["ring"]
    assert list(found["mine"]["ring"]) == ["before transport", "all steps"]


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


class Constant:
    """Acts `value`, and remembers what it was shown."""

    def __init__(self, value):
        self.name, self.value = f"constant {value}", value
        self.seen = {}

    def reset(self, episode_ids):
        self.seen.update({episode: [] for episode in episode_ids})

    def act(self, observations, episode_ids):
        assert set(observations) == {"proprio"}
        for row, episode in enumerate(episode_ids):
            self.seen[episode].append(float(observations["proprio"][row, 0]))
        return np.full((len(episode_ids), 7), self.value, np.float32)


def play(phases, steps=30):
    """Who acts at each step of two episodes from phase 1 on; the second begins five steps later and is asked first."""
    main, other = Constant(0.0), Constant(1.0)
    policy = TakeoverPolicy(main, other, 1)
    policy.reset([0])
    acted = {0: [], 1: []}
    for step in range(steps):
        if step == 5:
            policy.reset([1])
        own = {1: step - 5, 0: step} if step >= 5 else {0: step}
        proprio = np.array([[at, *8 * [row]] for row, at in own.items()], np.float32)
        reached = np.array([phases(row, at) for row, at in own.items()])
        for row, action in zip(own, policy.act({"proprio": proprio, PHASE_KEY: reached}, list(own))):
            acted[row].append(int(action[0]))
    assert main.seen == other.seen == {0: list(range(steps)), 1: list(range(steps - 5))}, "both see every step"
    return acted


def test_a_takeover_begins_with_the_first_step_of_its_phase_and_happens_once():
    def phases(row, step):  # phase 1 begins at step 7 (row 0) and 12 (row 1), and is left and entered again
        begin = 7 if row == 0 else 12
        return int(begin <= step < begin + 3 or step >= begin + 8)

    acted = play(phases)
    assert acted[0] == [int(7 <= step < 7 + LENGTH) for step in range(30)]
    assert acted[1] == [int(12 <= step < 12 + LENGTH) for step in range(25)]
    assert play(lambda row, step: 2 * int(step >= 7))[0] == acted[0], "a phase that is skipped has been reached"
    assert not any(play(lambda row, step: 0)[0])


def test_a_watched_task_is_another_one_for_a_resumed_evaluation():
    task = sim_task("assembly")
    watched = WatchedTask(**vars(task))
    assert watched.identity() == {**task.identity(), "shows_phase": True} and watched.phases == task.phases
