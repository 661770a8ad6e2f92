"""Claims about rollouts, on a tiny simulator."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gap_vla.core.errors import UserError
from gap_vla.rollouts import workers
from gap_vla.rollouts.evaluation import chosen_for_films
from gap_vla.rollouts.evaluation import evaluate as evaluate_noisily
from gap_vla.rollouts.policy import ExpertPolicy, RandomPolicy
from gap_vla.rollouts.records import EpisodeRecord, describe, read_episodes
from tests.helpers.pointmass import PointTask, ToldTask


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
                elif self.fault == "far":
                    actions[row, 4] = 1000
                elif self.fault == "width":
                    return actions[:, :6]
                elif self.fault == "gone":
                    raise UserError("no answer from ws://localhost:1")
        return actions


def test_the_expert_succeeds_and_random_actions_do_not(tmp_path):
    expert = evaluate(ExpertPolicy(), tmp_path / "expert")
    assert expert["success_rate"] == 1.0 and expert["interval"][1] == 1.0
    assert expert["phases"] == {"reached": {"move": 1.0, "grip": 1.0}, "failed_in": {}}
    random = evaluate(RandomPolicy(7), tmp_path / "random")
    assert random["success_rate"] == 0.0 and random["steps"] == [30] * 6
    assert random["phases"]["failed_in"] == {"move": 6}
    assert random["layout_seeds"] == expert["layout_seeds"] == [e for e in range(6)]
    assert json.loads((tmp_path / "random" / "summary.json").read_text()) == random
    assert "random on pointmass: 0 of 6 succeeded, 0 %" in describe(random)


def test_a_time_out_is_no_success_whoever_ends_the_episode(tmp_path):
    summary = evaluate(RandomPolicy(7), tmp_path, task=PointTask(limit=5), episodes=3)
    assert summary["outcomes"] == [0, 0, 0] and summary["steps"] == [5, 5, 5] and not summary["errors"]


def test_the_result_does_not_depend_on_workers_or_batches(tmp_path):
    def lines(folder):
        kept = ("episode", "layout_seed", "success", "steps", "phase")
        return [[getattr(r, key) for key in kept] for _, r in sorted(read_episodes(folder / "episodes.jsonl").items())]

    evaluate(RandomPolicy(7, seed=3), tmp_path / "a", workers=1, slots_per_worker=1)
    evaluate(RandomPolicy(7, seed=3), tmp_path / "b", workers=2, slots_per_worker=3)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


@pytest.mark.parametrize("fault", ["nan", "far"])
def test_actions_that_are_none_fail_the_episode_by_name_and_the_rest_goes_on(tmp_path, fault):
    summary = evaluate(Misbehaving(fault), tmp_path, slots_per_worker=1)
    assert summary["outcomes"] == [1, 1, 0, 1, 1, 1]
    (error,) = summary["errors"]
    assert error["episode"] == 2 and error["error"].startswith("step 2: ") and "[4]" in error["error"]
    assert summary["simulator_errors"] == 0


def test_a_policy_of_another_width_is_none_for_the_task(tmp_path):
    with pytest.raises(UserError, match="shape"):
        evaluate(Misbehaving("width"), tmp_path)


@pytest.mark.parametrize(("fault", "message"), [("raise", "unstable"), ("die", "exit code 7"), ("hang", "within 8 s")])
def test_a_simulator_fault_fails_only_the_episode_that_caused_it(tmp_path, processes, monkeypatch, fault, message):
    monkeypatch.setattr(workers, "LIMIT", 8.0 if fault == "hang" else 60.0)
    summary = evaluate(ExpertPolicy(), tmp_path, task=PointTask(faults={1: fault}), episodes=4, slots_per_worker=3)
    assert summary["outcomes"] == [1, 0, 1, 1]
    (error,) = summary["errors"]
    assert error["episode"] == 1 and message in error["error"] and error["error"].startswith("step 3: the simulator")
    assert summary["simulator_errors"] == 1 and "cut short by the simulator" in describe(summary)


def test_an_episode_that_was_lost_once_with_its_simulator_is_tried_again(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(workers, "LIMIT", 8.0)
    task = PointTask(faults={1: f"once {tmp_path / 'hung'}"})
    summary = evaluate(ExpertPolicy(), tmp_path / "out", task=task, episodes=3)
    assert summary["outcomes"] == [1] * 3 and not summary["errors"] and (tmp_path / "hung").exists()
    assert summary["steps"] == [8, 8, 6]  # as where nothing hangs


def test_a_simulator_that_never_starts_is_an_error_and_records_nothing(tmp_path):
    task = PointTask(faults={e: "reset" for e in range(6)})
    with pytest.raises(UserError, match="no layout"):
        evaluate(ExpertPolicy(), tmp_path, task=task)
    assert not list(tmp_path.glob("[!.]*"))


def test_a_layout_that_no_simulator_can_begin_fails_alone(tmp_path):
    summary = evaluate(ExpertPolicy(), tmp_path, task=PointTask(faults={2: "reset"}))
    assert summary["outcomes"] == [1, 1, 0, 1, 1, 1] and summary["simulator_errors"] == 1
    assert "(of the 5 episodes that were watched)" in describe(summary)


def test_a_policy_that_goes_away_stops_the_evaluation_which_then_continues(tmp_path, capsys):
    with pytest.raises(UserError, match="no answer"):
        evaluate(Misbehaving("gone"), tmp_path, slots_per_worker=1)
    assert "2 of 6 episodes are finished" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()
    assert evaluate(Misbehaving("none"), tmp_path)["success_rate"] == 1.0


KILLED = """
import sys, time
from tests.helpers.pointmass import PointTask
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import RandomPolicy

policy = RandomPolicy(7)
act = policy.act

def slow(observations, episode_ids):
    if max(episode_ids) >= 4:
        time.sleep(3600)  # here it is killed
    return act(observations, episode_ids)

if __name__ == "__main__":
    policy.act = slow
    evaluate(policy, PointTask(), episodes=8, seed=0, out_dir=sys.argv[1], workers=1, progress=False, videos=0)
"""


def test_a_killed_evaluation_resumes_and_gives_the_same_total(tmp_path):
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, str(script), str(out)], env=environment)
    log, deadline = out / "episodes.jsonl", time.monotonic() + 300
    while not (log.exists() and len(log.read_text().splitlines()) >= 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = log.read_text()
    log.write_text(before + '{"episode": 7, "lay')  # killed while writing a line
    resumed = evaluate(RandomPolicy(7), out, episodes=8)
    assert log.read_text().startswith(before) and len(read_episodes(log)) == 8
    whole = evaluate(RandomPolicy(7), tmp_path / "whole", episodes=8)
    for key in ("outcomes", "layout_seeds", "mean_steps", "phases"):
        assert resumed[key] == whole[key]


def test_another_evaluation_in_the_folder_is_refused_and_named(tmp_path):
    evaluate(ExpertPolicy(), tmp_path / "a", episodes=1)
    with pytest.raises(UserError, match="seed: 0 then, 1 now"):
        evaluate(ExpertPolicy(), tmp_path / "a", episodes=1, seed=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="thesis"):
        evaluate(ExpertPolicy(), tmp_path / "b")


def test_raising_the_number_of_episodes_only_adds_the_new_ones(tmp_path):
    evaluate(RandomPolicy(7), tmp_path, episodes=2)
    first = (tmp_path / "episodes.jsonl").read_text()
    assert evaluate(RandomPolicy(7), tmp_path, episodes=4)["episodes"] == 4
    assert (tmp_path / "episodes.jsonl").read_text().startswith(first)
    assert evaluate(RandomPolicy(7), tmp_path, episodes=3, videos=1)["episodes"] == 3  # nothing is played


def test_episodes_of_version_0_2_are_read(tmp_path):
    (line := dataclasses.asdict(EpisodeRecord(0, 7, True, 12))).update(seal="9c1a", checksum="77aa")
    (tmp_path / "episodes.jsonl").write_text(json.dumps(line) + "\n")
    assert read_episodes(tmp_path / "episodes.jsonl") == {0: EpisodeRecord(0, 7, True, 12)}


def test_films_show_people_more_than_the_policy_sees_and_failures_first(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Filmed(PointTask):
        def filmed(self):
            return dataclasses.replace(self, size=64)

    summary = evaluate(Misbehaving("nan"), tmp_path, task=Filmed(), episodes=4, slots_per_worker=1, videos=2)
    assert summary["videos"] == ["videos/episode_0002_failure.mp4", "videos/episode_0000_success.mp4"]
    import av

    for name, pictures in zip(summary["videos"], (3, summary["steps"][0] + 1)):
        with av.open(str(tmp_path / name)) as film:
            frames = list(film.decode(video=0))
        assert len(frames) == pictures and (frames[0].height, frames[0].width) == (64, 64)


def test_one_success_is_filmed_where_there_is_room_for_two():
    records = [EpisodeRecord(n, n, n == 5, 1) for n in range(8)]
    assert [record.episode for record in chosen_for_films(records, 3)] == [0, 1, 5]
    assert [record.episode for record in chosen_for_films(records, 1)] == [0]
    assert [record.episode for record in chosen_for_films(records[5:6], 3)] == [5]


class Listening(ExpertPolicy):
    name = "listening"

    def __init__(self):
        self.told = set()

    def act(self, observations, episode_ids):
        self.told |= {*observations["language_instruction"].tolist()}
        return super().act(observations, episode_ids)


def test_the_instruction_of_each_layout_is_the_simulators_own(tmp_path):
    policy = Listening()
    evaluate(policy, tmp_path, task=ToldTask(), episodes=4)
    assert policy.told == {f"go to the spot of layout {seed}" for seed in range(4)}


def test_only_privileged_policies_are_shown_what_the_expert_does(tmp_path):
    class Looking(RandomPolicy):
        def act(self, observations, episode_ids):
            assert set(observations) == {"image_primary", "proprio", "language_instruction"}
            return super().act(observations, episode_ids)

    assert evaluate(Looking(7), tmp_path, episodes=2)["episodes"] == 2
