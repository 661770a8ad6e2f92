"""Claims about evaluations on the real simulator, as the command runs them."""

import dataclasses
import json

import av
import numpy as np
import pytest

from gap_vla import sim
from gap_vla.cli.evaluation import diagnose, evaluate
from gap_vla.rollouts.diagnose import ALL_INTERVENTIONS
from gap_vla.rollouts.recordings import from_simulator
from gap_vla.rollouts.task import FILM_SIZE, sim_task
from gap_vla.sim.expert import PhaseWatcher
from gap_vla.sim.wrappers import MOVE_AT_STEP, MOVE_BY

ONE = ["--workers", "1", "--slots", "1", "--quiet"]


@pytest.fixture(scope="module")
def assembly():
    env = sim.make("assembly", cameras=())
    yield env
    env.close()


def test_the_watcher_follows_the_expert_to_the_last_phase(assembly):
    assembly.reset(seed=100_000)
    expert, watcher, seen, over = sim.make_expert(assembly, seed=3), PhaseWatcher(assembly.world), [], False
    while not over:
        seen.append(watcher.look())
        *_, terminated, truncated, info = assembly.step(expert.act())
        over = terminated or truncated or info["success"]
    assert list(dict.fromkeys(seen)) == list(sim.task_spec("assembly").phases)


def test_the_watcher_does_not_move_on_with_time_alone(assembly):
    assembly.reset(seed=100_000)
    watcher, still = PhaseWatcher(assembly.world), [0.0] * 6 + [-1.0]
    for _ in range(150):
        phase = watcher.look()
        assembly.step(still)
    assert phase == "reach"


def test_objects_are_moved_once_and_the_robot_is_not():
    task = sim_task("assembly", cameras=(), disturbance="objects_moved")
    moved, still = task.make(), dataclasses.replace(task, disturbance=None).make()
    action = np.zeros(7, np.float32)
    shift = []
    for env in (moved, still):
        env.reset(seed=100_000)
    for _ in range(MOVE_AT_STEP + 3):
        hand = [env.step(action)[0]["proprio"][:3] for env in (moved, still)]
        rings = [env.unwrapped.world.landmarks()["ring"][:2] for env in (moved, still)]
        shift.append(np.linalg.norm(rings[0] - rings[1]))
    moved.close(), still.close()
    assert max(shift[:MOVE_AT_STEP]) < 1e-9
    np.testing.assert_allclose(shift[MOVE_AT_STEP:], MOVE_BY, atol=0.003)
    np.testing.assert_allclose(hand[0], hand[1], atol=1e-4)
    assert task.identity()["disturbance"] == "objects_moved"


def test_the_command_evaluates_the_expert_and_writes_everything(tmp_path, processes, capsys):
    arguments = ["--policy", "expert", "--task", "assembly", "--episodes", "1", *ONE, "--out", str(tmp_path / "out")]
    assert evaluate([*arguments, "--videos", "1"]) == 0
    assert "expert on assembly: 1 of 1 succeeded" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["layout_seeds"] == [100_000] and summary["steps"] == [105]  # as version 0.2
    assert summary["phases"]["reached"]["insert"] == 1.0
    assert (tmp_path / "out" / "index.html").stat().st_size > 0
    with av.open(str(tmp_path / "out" / summary["videos"][0])) as film:
        stream = film.streams.video[0]
        assert (stream.height, stream.width, stream.frames) == (FILM_SIZE, FILM_SIZE, 106)


@pytest.mark.parametrize(("horizon", "steps"), [([], 200), (["--horizon", "12"], 12)])
def test_an_episode_that_ends_at_its_horizon_has_failed(tmp_path, horizon, steps):
    """The task's own, at which the simulator itself ends the episode, or a shorter one."""
    arguments = ["--policy", "random", "--task", "assembly", "--episodes", "2", "--cameras", "none", *horizon]
    assert evaluate([*arguments, *ONE, "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["successes"] == 0 and summary["steps"] == [steps] * 2 and not summary["errors"]
    assert sum(summary["phases"]["failed_in"].values()) == 2


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Of `assembly`, disturbed: what was executed is not what is to be imitated."""
    file = tmp_path_factory.mktemp("demos") / "assembly.hdf5"
    how = {"action_noise": 0.05, "image_size": 32, "workers": 1, "progress": False}
    sim.collect_demos("assembly", 2, file, **how)
    return file


def test_a_policy_is_diagnosed_on_demonstrations(demonstrations, tmp_path, capsys):
    arguments = ["--policy", "random", "--task", "assembly", "--demos", str(demonstrations), "--quiet"]
    assert diagnose([*arguments, "--out", str(tmp_path)]) == 0
    assert "image_primary <-" in capsys.readouterr().out
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["episodes"] == 2 and found["open_loop"]["transition_steps"] > 0
    assert diagnose([*arguments, "--episodes", "0:1", "--out", str(tmp_path)]) == 2
    assert "1 recording" in capsys.readouterr().err
    assert diagnose(["--policy", "random", "--task", "stack", *arguments[4:], "--out", str(tmp_path / "b")]) == 2
    assert "stack" in capsys.readouterr().err


def test_the_experts_episodes_are_recorded_with_the_objects_elsewhere():
    (one,) = from_simulator(sim_task("assembly", image_size=32), [105_000], workers=1)
    assert one.images.keys() == one.moved.keys() == {"image_primary"} and one.images["image_primary"].shape[1] == 32
    differs = (one.images["image_primary"] != one.moved["image_primary"]).any((1, 2, 3))
    assert differs.mean() > 0.5 and 0 < one.free.sum() < len(one) and 0 < one.transition.sum() < len(one)
    assert one.layout == 105_000 and one.instruction == sim.task_spec("assembly").instruction


def test_a_policy_that_is_random_does_not_look(tmp_path):
    arguments = ["--policy", "random", "--task", "assembly", "--image-size", "32", "--episodes", "2", "--workers", "1"]
    assert diagnose([*arguments, "--quiet", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["episodes"] == 2
    assert {effect["intervention"] for effect in found["open_loop"]["effects"]} == {*ALL_INTERVENTIONS}
