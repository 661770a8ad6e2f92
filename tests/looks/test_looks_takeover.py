"""The other policy acts in its window, exactly, and knows by then what it would know had it always been there."""

import numpy as np
import pytest
from pointmass import PointTask

from experiments.looks.takeover import (
    ALWAYS,
    NEVER,
    PHASE_KEY,
    TakeoverPolicy,
    Watched,
    Window,
    phase_windows,
    take_over,
)
from gap_vla.rollouts import PolicyError, RandomPolicy, sim_task
from gap_vla.rollouts.evaluation import evaluated


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


def test_a_window_lies_at_the_start_of_each_phase():
    assert [window.phase for window in phase_windows(("reach", "grasp"))] == [0, 1]


def test_a_phase_window_needs_a_task_that_shows_its_phases():
    with pytest.raises(PolicyError, match="does not show"):
        play(Window("start of grip", phase=1))


class Pilot:
    """Flies to the target that it sees (red, on a black picture); grips only if it may."""

    def __init__(self, grips):
        self.name, self._grips = "gripping" if grips else "loose", grips

    def reset(self, episode_ids):
        pass

    def act(self, observations, episode_ids):
        assert PHASE_KEY not in observations
        actions = np.zeros((len(episode_ids), 7), np.float32)
        for row, picture in enumerate(observations["image_primary"].astype(float)):
            size = len(picture)
            target = np.unravel_index(picture[..., 0].argmax(), picture.shape[:2])
            goal = np.array([*(2 * np.array(target) / (size - 1) - 1), picture[0, 0, 2] / 255 * 2 - 1])
            actions[row, :3] = np.clip((goal - observations["proprio"][row, :3]) / 0.1, -1, 1)
        actions[:, 6] = 1 if self._grips else -1
        return actions


def test_success_changes_in_the_window_where_the_other_policy_is_needed(tmp_path):
    task = PointTask(size=64, horizon=30)
    windows = (Window("start of grip", phase=1, length=10),)
    out = tmp_path / "takeover"
    found = take_over(Pilot(False), Pilot(True), task, windows, episodes=4, seed=0, out_dir=out, progress=False)
    by_name = {window["window"]: window for window in found["windows"]}
    assert {window["simulator_errors"] for window in found["windows"]} == {0}
    assert by_name["never"]["successes"] == 0 and by_name["always"]["successes"] == 4
    assert by_name["start of grip"]["difference"] == 1.0 and by_name["start of grip"]["outcomes"] == "1111"
    assert by_name["start of grip"]["phase"] == "grip" and (out / "takeover.json").is_file()
    with pytest.raises(
        PolicyError, match=r"takeover\.json holds 4 episodes, not 3; give --episodes 4, or move it away"
    ):
        take_over(Pilot(False), Pilot(True), task, windows, episodes=3, seed=0, out_dir=out, progress=False)


def test_a_task_of_ours_needs_no_instruction_to_be_known():
    task = sim_task("assembly")
    assert "instruction" not in evaluated(RandomPolicy(7), Watched(task), 0)["task"]
    assert "instruction" in evaluated(RandomPolicy(7), PointTask(), 0)["task"]
