"""Claims about diagnosis: a policy that looks and one that does not can be told apart."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from gap_vla.core.columns import Columns
from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.demos import open_source
from gap_vla.report.evaluations import report, verdict
from gap_vla.rollouts.diagnose import INTERVENTIONS, IntervenedPolicy, closed_loop, open_loop
from gap_vla.rollouts.policy import ExpertPolicy, identity
from gap_vla.rollouts.recordings import (
    LEAST_STD,
    from_episode,
    in_deviations,
    require_task,
)
from tests.helpers.demonstrations import write_arrays
from tests.helpers.pointmass import Blind, PointTask, Seeing, recorded
from tests.rollouts.test_statistics import alike

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "evaluation" / "figures.json").read_text())


@pytest.fixture(scope="module")
def recordings():
    return [recorded(seed) for seed in range(6)]


def effects(policy, recordings):
    found = open_loop(policy, recordings)
    return found, {effect.intervention: effect for effect in found.effects}


def plain(found):
    return json.loads(json.dumps(dataclasses.asdict(found)))


@pytest.mark.parametrize("policy", [Seeing(), Blind()], ids=["seeing", "blind"])
def test_all_figures_are_those_of_version_0_2(recordings, policy):
    found = plain(open_loop(policy, recordings))
    golden = GOLDEN[f"open_loop {policy.name}"]
    assert alike(found, {key: golden[key] for key in found})


def test_a_policy_that_looks_is_told_from_one_that_does_not(recordings):
    seeing, seen = effects(Seeing(), recordings)
    blind, unseen = effects(Blind(), recordings)
    for name in ("images_black", "images_swapped"):
        assert seen[name].change > 0.5 and unseen[name].change == 0
    assert unseen["proprio_swapped"].change > 0.1
    assert seeing.error < 0.3 < blind.error == unseen["images_swapped"].error
    assert seen["images_swapped"].error > 2 * seeing.error
    assert verdict(seeing).startswith("It looks:") and verdict(blind).startswith("It hardly looks")
    assert "images_swapped" in report(seeing)


def test_what_stands_still_counts_for_nothing():
    recorded_ones = np.stack([np.sin(np.arange(3000)), np.full(3000, 57.3)], 1).astype(np.float32)
    assert recorded_ones.std(0)[1] > LEAST_STD  # summed up in float32
    assert not in_deviations(recorded_ones)(np.add(recorded_ones, [0, 0.05]), recorded_ones).any()


def test_a_policy_of_another_width_is_refused(recordings):
    class Narrow(Seeing):
        def act(self, observations, episode_ids):
            return super().act(observations, episode_ids)[:, :6]

    with pytest.raises(UserError, match="7 numbers"):
        open_loop(Narrow(), recordings)
    with pytest.raises(UserError, match="1 recording"):
        open_loop(Seeing(), recordings[:1])


@pytest.mark.parametrize("name", [*INTERVENTIONS])
def test_an_intervened_policy_is_shown_what_it_says(recordings, name):
    class Watching(Seeing):
        seen = None

        def act(self, observations, episode_ids):
            self.seen = {key: value.copy() for key, value in observations.items()}
            return super().act(observations, episode_ids)

    inner = Watching()
    policy = IntervenedPolicy(inner, name, recordings)
    policy.reset([3])
    for step in range(2):
        policy.act({key: np.asarray(value)[None] for key, value in recordings[0].observation(step).items()}, [3])
    now, first, other = recordings[0].observation(1), recordings[0].observation(0), recordings[4].observation(1)
    expected = {
        "images_black": {"image_primary": now["image_primary"] * 0},
        "images_frozen": {"image_primary": first["image_primary"]},
        "images_swapped": {"image_primary": other["image_primary"]},
        "proprio_frozen": {"proprio": first["proprio"]},
        "proprio_swapped": {"proprio": other["proprio"]},
    }[name]
    for key, value in {**now, **expected}.items():
        np.testing.assert_array_equal(inner.seen[key][0], value)
    assert identity(policy)["intervention"] == name


def test_success_under_interventions_is_paired_on_the_same_layouts(tmp_path, recordings):
    task, options = PointTask(size=64), {"workers": 1, "progress": False, "videos": 0}
    chosen = ["images_swapped", "objects_moved"]
    args = {"episodes": 4, "seed": 50, "out_dir": tmp_path, "interventions": chosen}
    found = closed_loop(Seeing(), task, recordings, **args, **options)
    assert [(one.intervention, one.successes) for one in found][:2] == [("none", 4), ("images_swapped", 0)]
    assert found[0].difference is None and found[1].difference.difference == -1
    moved = json.loads((tmp_path / "objects_moved" / "evaluation.json").read_text())
    assert moved["task"]["disturbance"] == "objects_moved"
    assert "4/4" in report(open_loop(Seeing(), recordings), found)
    with pytest.raises(ConfigError, match="images_gone"):
        closed_loop(ExpertPolicy(), task, recordings, **{**args, "interventions": ["images_gone"]})
    shown = [dataclasses.replace(recordings[0], layout=52)]
    with pytest.raises(UserError, match="--seed"):
        closed_loop(ExpertPolicy(), task, shown, **args)


def an_episode(**changes):
    arrays = {"images": {}, "proprio": np.zeros((9, 8), np.float32), "action": np.ones((9, 6), np.float32)}
    return Episode(**arrays, columns=Columns.parse("joints:7 gripper_01"), **changes)


def test_transitions_of_a_demonstration_are_where_rho_is_high_or_else_near_changes_of_phase():
    rho = np.float32([0, 0.2, 0.6, 0.9, 0.5, 0, 0, 0, 0])
    one = from_episode(an_episode(rho=rho, change_point=rho > 0.8))
    assert one.transition.nonzero()[0].tolist() == [2, 3]
    phases = np.array(["reach"] * 4 + ["grasp"] * 5)
    assert from_episode(an_episode(phase=phases)).transition.nonzero()[0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert from_episode(an_episode()).transition is None


def test_an_instruction_of_each_step_is_shown_at_its_step():
    one = from_episode(an_episode(language_instruction=tuple("abcdefghi")))
    assert [one.observation(step)["language_instruction"] for step in (0, 3, 99)] == ["a", "d", "i"]


def test_demonstrations_of_another_task_or_view_are_refused(tmp_path):
    demo = {"actions": np.zeros((9, 7)), "obs/robot0_eef_pos": np.zeros((9, 3))}
    demo["obs/robot0_eef_quat"] = np.zeros((9, 4))
    near = {"env_kwargs": {"camera": "near"}}
    of_stack = open_source(write_arrays(tmp_path / "stack.hdf5", [demo], task="stack", env_args=near))
    require_task(of_stack, "stack", "near")
    require_task(open_source(write_arrays(tmp_path / "any.hdf5", [demo])), "threading", "near")
    for task, view in (("threading", None), (None, "frontview")):
        with pytest.raises(UserError, match=task or view):
            require_task(of_stack, task, view)
