"""Claims about rollouts, on a tiny simulator."""

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from pointmass import PointExpert, PointTask, ToldTask

from gap_vla.rollouts import (
    EvaluationError,
    ExpertPolicy,
    Limits,
    PolicyError,
    PolicyUnavailable,
    RandomPolicy,
    ReplayPolicy,
)
from gap_vla.rollouts import evaluate as evaluate_noisily
from gap_vla.rollouts.record import VideoShelf
from gap_vla.rollouts.summary import describe


def evaluate(policy, out_dir, *, task=None, episodes=6, **options):
    settings = {"seed": 0, "workers": 1, "slots_per_worker": 2, "videos": 0, "progress": False, **options}
    return evaluate_noisily(policy, task or PointTask(), episodes=episodes, out_dir=out_dir, **settings)


class Misbehaving(ExpertPolicy):
    """The expert, until episode 2 reaches its third step."""

    name = "misbehaving"

    def __init__(self, fault):
        self.fault, self.steps = fault, {}

    def act(self, observations, episode_ids):
        actions = np.array(super().act(observations, episode_ids))
        for row, episode in enumerate(episode_ids):
            self.steps[episode] = self.steps.get(episode, 0) + 1
            if episode == 2 and self.steps[episode] == 3:
                if self.fault == "nan":
                    actions[row, 4] = np.nan
                elif self.fault == "width":
                    return actions[:, :6]
                elif self.fault == "text":
                    return "forward"
                elif self.fault == "complex":
                    return actions + 1j
                elif self.fault == "words":
                    return actions.astype(str)
                elif self.fault == "objects":
                    return actions.astype(str).astype(object)
                elif self.fault == "gradient":
                    return torch.tensor(actions, requires_grad=True)
                elif self.fault == "masked":
                    return np.ma.masked_greater(actions, -2)
                elif self.fault == "hang":
                    time.sleep(3600)
                elif self.fault == "gone":
                    raise PolicyUnavailable("no answer from ws://localhost:1")
        return actions


def test_a_policy_that_does_not_fit_leaves_no_folder_and_a_folder_of_others_is_none_of_an_evaluation(tmp_path):
    class Unfit(ExpertPolicy):
        def act(self, observations, episode_ids):
            raise PolicyError("the policy wants other pictures")

    with pytest.raises(PolicyError, match="other pictures"):
        evaluate(Unfit(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(EvaluationError, match=r"holds thesis\.txt, but no evaluation"):
        evaluate(ExpertPolicy(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_expert_succeeds_and_random_actions_do_not(tmp_path):
    expert = evaluate(ExpertPolicy(), tmp_path / "expert")
    assert expert["success_rate"] == 1.0 and expert["interval"][1] == 1.0
    assert expert["phases"] == {"reached": {"move": 1.0, "grip": 1.0}, "failed_in": {}}
    random = evaluate(RandomPolicy(7), tmp_path / "random")
    assert random["success_rate"] == 0.0
    assert random["phases"]["failed_in"] == {"move": 6}
    assert random["layout_seeds"] == expert["layout_seeds"] == [e for e in range(6)]
    assert json.loads((tmp_path / "random" / "summary.json").read_text()) == random


def test_the_result_does_not_depend_on_workers_or_batches(tmp_path):
    def lines(folder):
        rows = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
        kept = ("episode", "layout_seed", "success", "steps", "phase")
        return sorted(tuple(row[key] for key in kept) for row in rows)

    evaluate(RandomPolicy(7, seed=3), tmp_path / "a", workers=1, slots_per_worker=1)
    evaluate(RandomPolicy(7, seed=3), tmp_path / "b", workers=2, slots_per_worker=3)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_replay_of_recorded_actions_repeats_the_outcome(tmp_path):
    task = PointTask()
    env, recordings, seeds = task.make(), [], [5, 6]
    for seed in seeds:
        env.reset(seed=seed)
        expert, actions, success = task.make_expert(env, seed=seed), [], False
        while not success:
            actions.append(expert.act())
            *_, info = env.step(actions[-1])
            success = info["success"]
        recordings.append(np.array(actions))
    summary = evaluate(ReplayPolicy(recordings, seeds), tmp_path, episodes=2)
    assert summary["success_rate"] == 1.0 and summary["layout_seeds"] == seeds
    policy = ReplayPolicy(given := [one.astype(np.float32) for one in recordings], seeds)
    with pytest.raises(PolicyError, match=r"episodes \[1\]: reset each of them once before it acts"):
        policy.act({}, [1])
    given[1][:] = np.nan  # a buffer that its owner fills anew
    policy.reset([1])
    assert policy.act({}, [1]).tolist() == [recordings[1][0].astype(np.float32).tolist()]
    with pytest.raises(EvaluationError, match="knows 2 layouts, 3 episodes"):
        evaluate(ReplayPolicy(recordings, seeds), tmp_path / "more", episodes=3)
    with pytest.raises(EvaluationError, match="knows 1 layouts, 2 episodes"):
        evaluate(ReplayPolicy(recordings, [5, 5]), tmp_path / "twice", episodes=2)
    assert summary["mean_steps"] == np.mean([len(actions) for actions in recordings])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "NaN.*entries \\[4\\]"),
        ("width", "shape .*6.* takes .*7"),
        ("text", "not an array"),
        ("complex", "the policy returned complex.*, not an array of numbers"),
        ("words", "the policy returned <U.*, not an array of numbers"),
        ("objects", "the policy returned object, not an array of numbers"),
        ("gradient", "the policy returned Tensor, not an array of numbers: Can't call numpy"),
        ("masked", "the policy returned masked entries, not an array of numbers"),
        ("hang", "within 1.5 s"),
    ],
)
def test_a_policy_fault_fails_the_episode_by_name_and_the_rest_goes_on(tmp_path, fault, message):
    limits = Limits(policy=1.5 if fault == "hang" else 60.0)
    summary = evaluate(Misbehaving(fault), tmp_path, workers=1, slots_per_worker=1, limits=limits)
    assert summary["outcomes"] == [1, 1, 0, 1, 1, 1]
    (error,) = summary["errors"]
    assert error["episode"] == 2 and error["error"].startswith("step 2: ")
    assert re.search(message, error["error"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "unstable"),
        pytest.param("hang", "within 1 s", marks=pytest.mark.slow),
        ("die", "exit code 7"),
    ],
)
def test_a_simulator_fault_fails_only_the_episode_that_caused_it(tmp_path, processes, fault, message):
    task = PointTask(faults={1: fault})
    limits = Limits(simulator=1.0, simulator_first=60.0)
    summary = evaluate(ExpertPolicy(), tmp_path, task=task, workers=1, slots_per_worker=3, limits=limits)
    assert summary["outcomes"] == [1, 0, 1, 1, 1, 1]
    (error,) = summary["errors"]
    assert error["episode"] == 1 and message in error["error"] and error["error"].startswith("step 3: the simulator")
    assert error["error"].endswith("(and so when it was tried again)") == (fault != "raise")
    assert summary["simulator_errors"] == 1
    assert "1 of 6 episodes were cut short by the simulator, not by the policy, and count as failed" in describe(
        summary
    )


def test_an_episode_that_was_lost_once_with_its_simulator_is_tried_again_and_costs_the_policy_nothing(
    tmp_path, processes
):
    hung = [tmp_path / "first", tmp_path / "second"]
    task = PointTask(faults={1: f"once {hung[0]}", 4: f"once {hung[1]}"})
    limits = Limits(simulator=1.0, simulator_first=60.0)
    summary = evaluate(ExpertPolicy(), tmp_path / "out", task=task, workers=2, slots_per_worker=2, limits=limits)
    assert summary["outcomes"] == [1] * 6 and not summary["errors"] and summary["simulator_errors"] == 0
    assert all(path.exists() for path in hung)
    assert summary["steps"] == [8, 8, 6, 8, 9, 6]  # as where nothing hangs


def test_the_first_step_of_an_environment_may_take_as_long_as_building_it(tmp_path):
    task = PointTask(faults={0: "slow start"})
    limits = Limits(simulator=1.0, simulator_first=60.0)
    summary = evaluate(ExpertPolicy(), tmp_path, task=task, episodes=1, limits=limits)
    assert summary["success_rate"] == 1.0
    assert 0 < summary["seconds"]["simulation"] < 1, "the 2 seconds of the first step, and building, are not in it"


class Brittle(PointExpert):
    """Knows nothing to do behind the end."""

    def act(self):
        near = np.abs(self._env.position - self._env.target).max() < 0.05
        if near and self.phase == "gripped":
            raise IndexError("pop from empty list")
        action = super().act()
        self.phase = "gripped" if action[6] > 0 else "move"
        return action


class BrittleTask(PointTask):
    def make_expert(self, env, *, seed):
        return Brittle(env)


def test_an_expert_that_knows_no_action_behind_the_end_has_succeeded(tmp_path):
    summary = evaluate(ExpertPolicy(), tmp_path, task=BrittleTask(phases=("move", "gripped")))
    assert summary["outcomes"] == [1] * 6 and not summary["errors"]


@dataclasses.dataclass(frozen=True)
class SlowlyBuilt(PointTask):
    def make(self):
        time.sleep(2)
        return super().make()


def test_a_simulator_that_is_built_anew_has_the_time_of_a_first_answer(tmp_path):
    limits = Limits(simulator=1.0, simulator_first=60.0)
    task = SlowlyBuilt(faults={0: "reset"})
    summary = evaluate(ExpertPolicy(), tmp_path, task=task, episodes=3, workers=1, slots_per_worker=1, limits=limits)
    assert summary["outcomes"] == [0, 1, 1] and summary["simulator_errors"] == 1


def test_a_simulator_that_never_starts_is_an_error_and_records_nothing(tmp_path):
    task = PointTask(faults={e: "reset" for e in range(6)})
    with pytest.raises(EvaluationError, match=r"3 simulator failures in a row.*no layout") as caught:
        evaluate(ExpertPolicy(), tmp_path, task=task)
    assert "Traceback" in str(caught.value.__cause__) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_layout_that_no_simulator_can_begin_fails_alone(tmp_path):
    task = PointTask(faults={2: "reset"})
    summary = evaluate(ExpertPolicy(), tmp_path, task=task)
    assert summary["outcomes"] == [1, 1, 0, 1, 1, 1] and summary["simulator_errors"] == 1
    (error,) = summary["errors"]
    why = "step 0: the simulator failed: RuntimeError: no layout (and so when it was tried again)"
    assert error == {"episode": 2, "error": why}
    assert "\nphases reached (of the 5 episodes that were watched): move 100 %, grip 100 %\n" in describe(summary)


def test_a_policy_that_goes_away_stops_the_evaluation_which_then_continues(tmp_path):
    with pytest.raises(PolicyUnavailable, match="2 of 6 episodes are finished, 2 succeeded"):
        evaluate(Misbehaving("gone"), tmp_path, workers=1, slots_per_worker=1)
    assert not (tmp_path / "summary.json").exists()
    assert evaluate(Misbehaving("none"), tmp_path)["success_rate"] == 1.0


KILLED = """
import sys, time
from pointmass import PointTask
from gap_vla.rollouts import RandomPolicy, evaluate

policy = RandomPolicy(7)
act = policy.act

def slow(observations, episode_ids):
    if max(episode_ids) >= 6:
        time.sleep(3600)  # here it is killed
    return act(observations, episode_ids)

if __name__ == "__main__":
    policy.act = slow
    evaluate(policy, PointTask(), episodes=12, seed=0, out_dir=sys.argv[1], workers=2, slots_per_worker=1,
    videos=2, progress=False)
"""


def test_a_killed_evaluation_resumes_and_gives_the_same_total(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, str(script), str(out)], env=environment)
    deadline = time.monotonic() + 300
    while not ((out / "episodes.jsonl").exists() and len((out / "episodes.jsonl").read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    log = out / "episodes.jsonl"
    before = log.read_text().splitlines()
    assert 3 <= len(before) < 12
    log.write_text(log.read_text() + '{"episode": 11, "lay')  # killed while writing a line
    resumed = evaluate(RandomPolicy(7), out, episodes=12, videos=2)
    assert log.read_text().splitlines()[: len(before)] == before
    whole = evaluate(RandomPolicy(7), tmp_path / "whole", episodes=12)
    for key in ("outcomes", "layout_seeds", "mean_steps", "phases"):
        assert resumed[key] == whole[key]


def test_episodes_that_may_only_be_read_are_known_before_one_is_played_and_shown_where_none_is_left(
    tmp_path, monkeypatch
):
    whole = evaluate(RandomPolicy(7), tmp_path, episodes=1)
    allowed = Path.open

    def refuse(path, mode="r", *rest, **more):
        if path.name == "episodes.jsonl" and mode.startswith("a"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return allowed(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert evaluate(RandomPolicy(7), tmp_path, episodes=1)["outcomes"] == whole["outcomes"]
    policy = RandomPolicy(7)
    monkeypatch.setattr(policy, "reset", lambda episodes: pytest.fail("an episode began"))
    with pytest.raises(PermissionError, match=r"episodes\.jsonl"):
        evaluate(policy, tmp_path, episodes=2)


def test_another_evaluation_in_the_folder_is_refused_and_named(tmp_path):
    evaluate(ExpertPolicy(), tmp_path, episodes=1)
    with pytest.raises(EvaluationError, match="seed: 0 then, 1 now"):
        evaluate(ExpertPolicy(), tmp_path, episodes=1, seed=1)


def test_raising_the_number_of_episodes_only_adds_the_new_ones(tmp_path):
    evaluate(RandomPolicy(7), tmp_path, episodes=2)
    first = (tmp_path / "episodes.jsonl").read_text()
    assert evaluate(RandomPolicy(7), tmp_path, episodes=4)["episodes"] == 4
    assert (tmp_path / "episodes.jsonl").read_text().startswith(first)


class FromTheWrist(PointTask):
    """The same, seen by the wrist's camera alone."""

    def make(self):
        env = super().make()
        seen, shown = env._observe, {"image_primary": "image_wrist"}
        env._observe = lambda: {shown.get(key, key): value for key, value in seen().items()}
        return env


def test_another_camera_is_filmed_where_the_primary_one_is_not_shown(tmp_path):
    summary = evaluate(ExpertPolicy(), tmp_path, task=FromTheWrist(), episodes=1, videos=1)
    assert summary["videos"] == ["videos/episode_0000_success.mp4"] and (tmp_path / summary["videos"][0]).exists()


@pytest.mark.parametrize("videos", [0, 1])
def test_pictures_are_kept_for_films_alone(tmp_path, monkeypatch, videos):
    kept = []
    monkeypatch.setattr(VideoShelf, "add", lambda shelf, episode, success, frames: kept.append(len(frames)))
    summary = evaluate(RandomPolicy(7), tmp_path, episodes=1, videos=videos)
    assert kept == [(summary["steps"][0] + 1) * videos]


def test_films_stand_in_the_order_of_their_episodes_also_beyond_ten_thousand(tmp_path):
    shelf = VideoShelf(tmp_path, 2)
    for episode in (10_000, 9_999):
        shelf.add(episode, False, [np.zeros((16, 16, 3), np.uint8)] * 2)
    shutil.copy(shelf.paths[0], tmp_path / "episode_09999_failure.mp4")  # no name that an evaluation gives
    assert [path.name for path in shelf.paths] == ["episode_9999_failure.mp4", "episode_10000_failure.mp4"]


def test_failures_are_filmed_before_successes(tmp_path):
    summary = evaluate(Misbehaving("nan"), tmp_path, episodes=4, workers=1, slots_per_worker=1, videos=2)
    assert summary["videos"][0] == "videos/episode_0002_failure.mp4"
    assert len(summary["videos"]) == 2 and "success" in summary["videos"][1]
    of_these = [name for name in summary["videos"] if "0002" not in name]
    fewer = evaluate(Misbehaving("nan"), tmp_path, episodes=2, workers=1, slots_per_worker=1, videos=2)
    assert fewer["videos"] == of_these and (tmp_path / summary["videos"][0]).exists()
    assert all((tmp_path / name).stat().st_size > 500 for name in summary["videos"])


def test_a_task_that_cannot_be_watched_or_sent_is_refused_before_a_simulator_starts(tmp_path, monkeypatch):
    class Local(PointTask):
        pass

    class Unwatched(PointTask):
        make_watcher = None

    nothing = types.SimpleNamespace(name="x", act=None)
    for policy, task, said in (
        (RandomPolicy(7), Unwatched(), "names phases and has no `make_watcher`"),
        (RandomPolicy(7), Local(), r"the task Local: .* it is sent to the simulators' processes, so it must pickle"),
        (nothing, PointTask(), "the policy has no `reset`"),
    ):
        with pytest.raises(EvaluationError, match=said):
            evaluate(policy, tmp_path, task=task)
    monkeypatch.setattr(PointTask, "__module__", "__main__")
    for program in (None, "<stdin>"):  # in a notebook, and in `python -`
        monkeypatch.setattr(sys.modules["__main__"], "__file__", program, raising=False)
        with pytest.raises(EvaluationError, match="PointTask is written where no other process can import it"):
            evaluate(RandomPolicy(7), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_subclass_changes_is_another_policy(tmp_path):
    class Noisy(RandomPolicy):
        name = "random"

    class Halting(ExpertPolicy):
        def act(self, observations, episode_ids):
            return super().act(observations, episode_ids) * 0

    evaluate(RandomPolicy(7), tmp_path / "a", episodes=1)
    with pytest.raises(EvaluationError, match="another evaluation"):
        evaluate(Noisy(7), tmp_path / "a", episodes=1)
    evaluate(Halting(), tmp_path / "b", episodes=1)
    with pytest.raises(EvaluationError, match="another evaluation"):
        evaluate(ExpertPolicy(), tmp_path / "b", episodes=1)


class Listening(ExpertPolicy):
    name = "listening"

    def __init__(self):
        super().__init__()
        self.told = set()

    def act(self, observations, episode_ids):
        self.told |= {*observations["language_instruction"].tolist()}
        return super().act(observations, episode_ids)


def test_the_instruction_of_each_layout_is_the_simulators_own_and_no_list_hides_a_nan(tmp_path):
    policy = Listening()
    summary = evaluate(policy, tmp_path / "a", task=ToldTask(), episodes=4)
    assert policy.told == {f"go to the spot of layout {seed}" for seed in range(4)}
    assert ["speed is NaN or infinite at index 0" in one["error"] for one in summary["errors"]] == [True]
    with pytest.raises(EvaluationError, match="pointmass: language_instruction is b'go'; let it be a text"):
        evaluate(Listening(), tmp_path / "b", task=ToldTask(), episodes=1, seed=100)


def test_many_environments_of_a_process_are_not_waited_for_for_ever(tmp_path):
    code = """if True:
        import sys
        from pointmass import PointTask
        from gap_vla.rollouts import RandomPolicy, evaluate
        options = dict(episodes=256, seed=0, workers=1, slots_per_worker=256, videos=0, progress=False)
        print(evaluate(RandomPolicy(7), PointTask(size=64, horizon=3), out_dir=sys.argv[1], **options)["episodes"])
        wide = PointTask(size=256, horizon=3, action_dim=10_000, phases=())
        options |= dict(episodes=16, slots_per_worker=16)
        print(evaluate(RandomPolicy(10_000), wide, out_dir=sys.argv[1] + "2", **options)["episodes"])
    """
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    (tmp_path / "run.py").write_text("if __name__ == '__main__':\n" + code.replace("if True:", "    if True:", 1))
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "256\n16\n", done.stderr
