"""Looks: probes find what is there on episodes that they have not seen; another policy acts exactly in its window."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.looks import predictors
from experiments.looks.linear_probe import probe_beyond, probe_positions, probe_switches
from experiments.looks.predictors import action_errors
from experiments.looks.takeover import ALWAYS, NEVER, PHASE_KEY, TakeoverPolicy, Window, phase_windows
from gap_vla.core.errors import UserError

EPISODES, STEPS, WIDTH = 30, 20, 24


@pytest.fixture(scope="module")
def planted():
    """Features of which some directions carry the position and the transition, linearly, beside noise."""
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    position = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0) + rng.normal(0, 0.002, (600, 3))
    transition = rng.random(600) < 0.2
    hidden = np.concatenate([position / 0.1, transition[:, None], rng.normal(size=(600, WIDTH - 4))], axis=1)
    features = hidden @ rng.normal(size=(WIDTH, WIDTH)) + rng.normal(0, 0.01, (600, WIDTH))
    return features.astype(np.float32), position, transition, episodes


def test_a_planted_position_is_found_on_held_out_episodes_and_a_shuffled_one_is_not(planted):
    features, position, _, episodes = planted
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


def test_planted_transitions_are_told_apart_and_shuffled_ones_are_not(planted):
    features, _, transition, episodes = planted
    found = probe_switches(features, transition, episodes)
    assert found["auc"] > 0.97 and found["balanced_accuracy"] > 0.9 and found["share"] == transition.mean()
    nothing = probe_switches(features, np.random.default_rng(3).permutation(transition), episodes)
    assert abs(nothing["auc"] - 0.5) < 0.1 and nothing["auc_interval"][0] < 0.5 < nothing["auc_interval"][1]


@pytest.fixture(scope="module")
def carried():
    """A hand, an object that it carries, a goal that only half of the features know, in 30 episodes."""
    rng = np.random.default_rng(5)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    hand = rng.normal(0, 0.1, (EPISODES * STEPS, 3))
    goal = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0)
    noise = rng.normal(size=(EPISODES * STEPS, 6))
    blind = np.concatenate([hand / 0.1, hand**2 / 0.01, noise], axis=1) @ rng.normal(size=(12, 12))
    seeing = np.concatenate([hand / 0.1, goal / 0.05, noise], axis=1) @ rng.normal(size=(12, 12))
    return hand, hand + 0.02, goal, blind, seeing, episodes


def test_a_carried_object_read_off_the_hand_is_nothing_beyond_proprioception(carried):
    hand, load, _, blind, _, episodes = carried
    assert probe_positions(blind, load, episodes)["r2"] > 0.95, "the plain probe is fooled"
    load = load + np.random.default_rng(6).normal(0, 0.01, load.shape)
    found = probe_beyond(blind, load, hand, episodes)
    assert found["r2"] < 0.05 and found["error"] == pytest.approx(found["covariate_error"], rel=0.05)


def test_what_the_hand_does_not_tell_is_found_in_features_that_know_it(carried):
    hand, _, goal, blind, seeing, episodes = carried
    assert probe_beyond(seeing, goal + 2 * hand**2, hand, episodes)["r2"] > 0.9
    assert probe_beyond(blind, goal + 2 * hand**2, hand, episodes)["r2"] < 0.05


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


def play(window, steps=30, phases=None, rows=(0, 1)):
    """Who acted at each step of each row; row 1 begins five steps later and is asked first."""
    main, other = Constant(0.0), Constant(1.0)
    policy = TakeoverPolicy(main, other, window)
    policy.reset([0])
    acted = {row: [] for row in rows}
    for step in range(steps):
        if step == 5:
            policy.reset([1])
        live = [row for row in reversed(rows) if row == 0 or step >= 5]
        own = {row: step if row == 0 else step - 5 for row in live}
        observations = {"proprio": np.array([[own[row]] + [row] * 8 for row in live], np.float32)}
        if phases is not None:
            observations[PHASE_KEY] = np.array([phases(row, own[row]) for row in live])
        for row, action in zip(live, policy.act(observations, live)):
            acted[row].append(int(action[0]))
    return acted, main, other


def test_a_window_of_steps_is_counted_from_each_episodes_own_start():
    acted, main, other = play(Window("steps 10 to 19", first=10))
    for row, length in ((0, 30), (1, 25)):
        assert acted[row] == [int(10 <= step < 20) for step in range(length)]
        assert main.seen[row] == list(range(length)), "the main policy sees every step"
        assert other.seen[row] == list(range(20)), "the other one has watched from the start, until its window is over"


def test_a_window_at_a_phase_begins_with_its_first_step_and_happens_once():
    def phases(row, step):  # phase 1 begins at step 7 (row 0) and 12 (row 1), and is left and entered again
        begin = 7 if row == 0 else 12
        return int(begin <= step < begin + 3 or step >= begin + 8)

    acted, _, other = play(Window("start of grip", phase=1, length=4), phases=phases)
    assert acted[0] == [int(7 <= step < 11) for step in range(30)]
    assert acted[1] == [int(12 <= step < 16) for step in range(25)]
    assert other.seen[0] == list(range(11))
    passed, _, _ = play(Window("start of grip", phase=1, length=4), phases=lambda row, step: 2 * int(step >= 7))
    assert passed[0] == acted[0], "a phase that begins and ends between two steps has been reached"


def test_never_and_always_are_the_two_policies_alone():
    never, _, unused = play(NEVER)
    always, _, _ = play(ALWAYS)
    assert set(never[0] + never[1]) == {0} and set(always[0] + always[1]) == {1}
    assert unused.seen == {0: [], 1: []}
    assert [window.phase for window in phase_windows(("reach", "grasp"))] == [0, 1]
