"""Claims about what is no measurement: no episodes, no steps, no time, NaN, another task's data. An error each."""

import json

import h5py
import numpy as np
import pytest
from pointmass import PointTask
from test_evaluation_diagnose import SIZE, Seeing, record
from test_evaluation_rollout import evaluate

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.report.comparison_render import render
from gap_vla.rollouts import (
    EvaluationError,
    ExpertPolicy,
    Limits,
    PolicyError,
    PolicyUnavailable,
    RandomPolicy,
    sim_task,
)
from gap_vla.rollouts import (
    evaluate as evaluate_as_asked,
)
from gap_vla.rollouts.diagnose import closed_loop, open_loop
from gap_vla.rollouts.heldout import held_out
from gap_vla.rollouts.record import EpisodeLog, EpisodeRecord
from gap_vla.rollouts.recordings import Recording, from_episode, from_simulator
from gap_vla.serving.client import RemotePolicy
from gap_vla.serving.key_mapping import KeyMapping
from gap_vla.serving.loading import load_policy
from gap_vla.sim import UnknownNameError

NAN = float("nan")


@pytest.mark.parametrize(
    "setting",
    [
        {"episodes": 0},
        {"episodes": -3},
        {"episodes": 2.5},
        {"episodes": True},
        {"seed": -1},
        {"seed": 2**70},
        {"workers": 0},
        {"workers": 10**6},
        {"slots_per_worker": 0},
        {"slots_per_worker": 10**6},
        {"videos": -1},
    ],
)
def test_an_evaluation_of_an_impossible_setting_is_refused_before_it_leaves_anything(tmp_path, setting):
    (name,) = setting
    with pytest.raises(EvaluationError, match=f"{name} is .*it must be a whole number"):
        evaluate(ExpertPolicy(), tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "setting", [{"horizon": 0}, {"horizon": -5}, {"image_size": 0}, {"image_size": 50_000}, {"horizon": NAN}]
)
def test_a_task_without_steps_or_with_pictures_of_no_size_is_refused(tmp_path, setting):
    (name,) = setting
    with pytest.raises(EvaluationError, match=f"{name} is"):
        sim_task("assembly", **setting)
    with pytest.raises(EvaluationError, match=f"{name} is"):
        evaluate_as_asked(ExpertPolicy(), "assembly", episodes=1, seed=0, out_dir=tmp_path / "out", **setting)
    if name == "horizon":
        with pytest.raises(EvaluationError, match="pointmass: horizon is"):
            evaluate(ExpertPolicy(), tmp_path / "out", task=PointTask(**setting))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["camera", "variant", "cameras"])
def test_views_variants_and_cameras_that_the_task_has_not_are_refused_before_a_simulator_starts(name):
    with pytest.raises(UnknownNameError, match="nope"):
        sim_task("threading", **{name: ("nope",) if name == "cameras" else "nope"})


@pytest.mark.parametrize("seconds", [0, -1, NAN, float("inf")])
@pytest.mark.parametrize("name", ["policy", "policy_first", "simulator", "simulator_first"])
def test_a_limit_in_which_nothing_can_answer_is_refused(name, seconds):
    with pytest.raises(EvaluationError, match=rf"limit\.{name} is"):
        Limits(**{name: seconds})


class Silent(ExpertPolicy):
    name = "silent"

    def act(self, observations, episode_ids):
        import time

        time.sleep(1.5)
        return super().act(observations, episode_ids)


def test_a_policy_that_never_answered_has_no_success_rate(tmp_path):
    limits = Limits(policy=0.2, policy_first=0.2)
    with pytest.raises(PolicyUnavailable, match=r"did not answer within 0\.2 s; 0 of 1 episodes are finished"):
        evaluate(Silent(), tmp_path, episodes=1, limits=limits)
    assert not (tmp_path / "summary.json").exists()


def test_episodes_that_were_all_cut_short_are_no_success_rate(tmp_path):
    for _ in range(2):  # also when it is asked for again
        with pytest.raises(EvaluationError, match=r"all 2 episodes were cut short.*step 0: .*shape \(2, 5\), the task"):
            evaluate(RandomPolicy(5), tmp_path, episodes=2)
    assert not (tmp_path / "summary.json").exists()


class Broken(PointTask):
    """A simulator whose numbers go bad at the third step of layout 1."""

    def make(self):
        env, stepped = super().make(), PointTask.make(self).step.__func__

        def step(action):
            observation, *rest = stepped(env, action)
            if env.seed_value == 1 and env.steps == 3:
                observation["proprio"][4] = np.inf
            return observation, *rest

        env.step = step
        return env


def test_a_state_that_is_no_number_fails_its_episode_by_name_and_never_reaches_the_policy(tmp_path):
    summary = evaluate(ExpertPolicy(), tmp_path, task=Broken(), episodes=3)
    assert summary["outcomes"] == [1, 0, 1]
    assert summary["errors"] == [
        {"episode": 1, "error": "step 3: the simulator's proprio is NaN or infinite at index 4"}
    ]


class Remembering(RandomPolicy):
    def forget(self, episode_ids):
        for episode in episode_ids:
            del self._generators[episode]


def test_policies_are_told_when_an_episode_is_over(tmp_path):
    policy = Remembering(7)
    evaluate(policy, tmp_path, episodes=3)
    assert policy._generators == {}
    recordings = [record(seed) for seed in range(3)]
    held_out(policy, recordings)
    open_loop(policy, recordings)
    assert policy._generators == {}


def episode(**changes):
    arrays = {
        "images": {"image_primary": np.zeros((4, 8, 8, 3), np.uint8)},
        "proprio": np.zeros((4, 9), np.float32),
        "action": np.zeros((4, 7), np.float32),
    }
    return Episode(**{**arrays, **changes}, metadata={"file_path": "some.hdf5", "episode_id": 7})


@pytest.mark.parametrize("field", ["proprio", "action"])
def test_recorded_numbers_that_are_none_are_refused_by_file_episode_and_step(field):
    values = np.zeros((4, 9 if field == "proprio" else 7), np.float32)
    values[2, 1] = NAN
    with pytest.raises(EpisodeError, match=rf"some\.hdf5, episode 7: {field} is NaN or infinite at step 2"):
        from_episode(episode(**{field: values}))
    whole = {"images": {}, "proprio": np.zeros((4, 9)), "action": np.zeros((4, 7))}
    with pytest.raises(EvaluationError, match=f"{field} is NaN or infinite at step 2"):
        Recording(**{**whole, field: values})


class Answering(Seeing):
    def __init__(self, answer):
        self.answer = answer

    def act(self, observations, episode_ids):
        return self.answer(len(episode_ids))


@pytest.mark.parametrize("measure", [held_out, open_loop])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda rows: np.full((rows, 7), NAN), "action is NaN or infinite in episode 0"),
        (lambda rows: np.zeros((rows - 1, 7)), r"returned float64 \(\d, 7\) for \d+ observations"),
        (lambda rows: np.array(["forward"] * rows), r"returned <U7"),
        (lambda rows: np.zeros((rows, 5)), "5 wide, the recorded ones 7"),
    ],
)
def test_answers_that_are_no_actions_are_no_error_figure(measure, answer, message):
    with pytest.raises(PolicyError, match=message):
        measure(Answering(answer), [record(seed) for seed in range(2)])


@pytest.mark.parametrize("measure", [held_out, open_loop])
def test_recordings_that_never_move_and_batches_of_none_measure_nothing(measure):
    still = [Recording(r.images, r.proprio, np.zeros_like(r.action)) for r in (record(0), record(1))]
    with pytest.raises(EvaluationError, match="recorded actions are all the same"):
        measure(Seeing(), still)
    with pytest.raises(EvaluationError, match="batch is 0"):
        measure(Seeing(), still, batch=0)


def test_diagnoses_of_nothing_are_refused(tmp_path):
    with pytest.raises(PolicyError, match="needs two or more"):
        open_loop(Seeing(), [record(0)])
    with pytest.raises(EvaluationError, match="layouts is 0"):
        from_simulator(sim_task("assembly"), [])
    with pytest.raises(EvaluationError, match="workers is 0"):
        from_simulator(sim_task("assembly"), [1], workers=0)
    with pytest.raises(EvaluationError, match="episodes is 0"):
        closed_loop(Seeing(), PointTask(size=SIZE), [record(0)], episodes=0, seed=0, out_dir=tmp_path)


def demonstrations(path, seeds=(5, 6), task="assembly", width=7):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["task"] = task
        for number, seed in enumerate(seeds):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = np.zeros((3, width))
            demo["executed_actions"] = np.full((3, width), 0.5)
            for key, columns in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2)):
                demo[f"obs/robot0_{key}"] = np.ones((3, columns))
            if seed is not None:
                demo.attrs["seed"] = seed
    return path


def replaying(path, task="assembly"):
    return load_policy(f"replay:{path}", action_dim=7, task=task).policy


def test_demonstrations_are_replayed_as_executed_on_their_layouts_and_in_their_task_only(tmp_path):
    path = demonstrations(tmp_path / "demos.hdf5")
    policy = replaying(path)
    assert dict(policy.layout_seeds) == {0: 5, 1: 6} and policy._actions[0][0, 0] == 0.5
    with pytest.raises(PolicyError, match=r"demos\.hdf5 holds demonstrations of assembly; the policy is one for stack"):
        replaying(path, "stack")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["task"]
        file["data"].attrs["env_args"] = '{"env_name": "Lift", "type": 1}'
    with pytest.raises(PolicyError, match=r"demos\.hdf5 holds demonstrations of Lift; the policy is one for assembly"):
        replaying(path)


@pytest.mark.parametrize("seed", [-1, 2**40, 1.5, "five", True])
def test_recordings_with_odd_seeds_are_refused_by_file_and_episode(tmp_path, seed):
    path = demonstrations(tmp_path / "demos.hdf5", seeds=(5, seed))
    with pytest.raises(PolicyError, match=r"demos\.hdf5, episode demo_1: seed is .*it must be a whole number"):
        replaying(path)


def test_recordings_of_which_some_have_no_layout_are_refused(tmp_path):
    with pytest.raises(PolicyError, match="only 1 of 2 recordings say on which layout"):
        replaying(demonstrations(tmp_path / "demos.hdf5", seeds=(5, None)))
    assert replaying(demonstrations(tmp_path / "others.hdf5", seeds=(None, None))).layout_seeds is None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("5", "keys.json is 5"),
        ('{"observation": 5}', "observation is 5"),
        ('{"observation": {"proprio": 5}}', "observation.proprio is 5"),
        ('{"observation": {"propio": "state"}}', "observation.propio is none of our observations"),
        ('{"observation": {"proprio": "x", "image_primary": "x"}}', "the same name"),
        ('{"actions": ["a"]}', "actions is list"),
        ('{"execute": 0}', "execute is 0"),
        ('{"execute": "8"}', "execute is '8'"),
        ('{"image_size": -1}', "image_size is -1"),
        ('{"action_columns": 3}', "action_columns is 3"),
        ('{"action_columns": []}', "action_columns is empty"),
        ('{"action_columns": [0, -1]}', "action_columns[1] is -1"),
        ('{"action_signs": [1, NaN]}', "action_signs[1] is nan"),
        ('{"action_signs": {"a": 1}}', "action_signs is dict"),
        ('{"unheard_of": 1}', "unknown key unheard_of"),
        ("{", "not valid JSON"),
    ],
)
def test_a_key_file_of_another_shape_is_refused_by_its_key(tmp_path, content, named):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(PolicyError) as caught:
        KeyMapping.read(tmp_path / "keys.json")
    assert named in str(caught.value) and "keys.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_file_may_say_nothing_and_belongs_to_a_server(tmp_path):
    (tmp_path / "keys.json").write_text('{"image_size": null, "action_columns": null, "action_signs": null}')
    assert KeyMapping.read(tmp_path / "keys.json") == KeyMapping()
    with pytest.raises(PolicyError, match="is for servers; random has none"):
        load_policy("random", action_dim=7, keys=tmp_path / "keys.json")


@pytest.mark.parametrize(
    "address",
    ["ws://", "ws://:8000", "ws://localhost:99999", "ws://localhost:port", "ws:///x", "ws://[::1", "ws://h:0"],
)
def test_an_address_that_is_none_is_refused_at_once(address):
    with pytest.raises(PolicyError, match=r"is no address .*give ws://HOST:PORT"):
        RemotePolicy(address, patience=3600)


@pytest.mark.parametrize("patience", [-1, NAN, float("inf"), "long"])
def test_a_patience_that_is_no_time_is_refused(patience):
    with pytest.raises(PolicyError, match="patience is"):
        RemotePolicy("ws://localhost:9", patience=patience)


LINE = {"episode": 0, "layout_seed": 0, "success": True, "steps": 3}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"success": "no"}, "success is 'no'"),
        ({"success": 1}, "success is 1"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": NAN}, "steps is nan"),
        ({"episode": "0"}, "episode is '0'"),
        ({"policy_seconds": NAN}, "policy_seconds is nan"),
        ({"error": 5}, "error is 5"),
        ({"error": "step 3: fell"}, "cannot have succeeded"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_lines_that_are_no_episodes_are_not_counted_but_named(tmp_path, change, named):
    EpisodeLog(tmp_path, {}).close()
    (tmp_path / "episodes.jsonl").write_text(json.dumps({**LINE, **change}) + "\n")
    with pytest.raises(EvaluationError) as caught:
        EpisodeLog(tmp_path, {})
    assert "episodes.jsonl, line 1" in str(caught.value) and named in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rollouts": None}, "was not evaluated"),
        ({"rollouts": {"layout_seeds": [], "outcomes": []}}, "0 outcomes of 0 layouts"),
        ({"rollouts": {"layout_seeds": [1, 1], "outcomes": [0, 1]}}, "2 outcomes of 1 layouts"),
        ({"rollouts": {"layout_seeds": [1], "outcomes": [0, 1]}}, "2 outcomes of 1 layouts"),
        ({"rollouts": {"layout_seeds": [1], "outcomes": [NAN]}}, "outcomes[0] is nan"),
        ({"rollouts": {"layout_seeds": [1], "outcomes": [2]}}, "outcomes[0] is 2"),
        ({"rollouts": {"outcomes": [1]}}, "layout_seeds is missing"),
        ({"method": 5}, "method is 5"),
        ({"seed": "0"}, "seed is '0'"),
    ],
)
def test_summaries_without_outcomes_are_not_compared(tmp_path, change, named):
    whole = {"task": "stack", "method": "vp", "seed": 0, "rollouts": {"layout_seeds": [1], "outcomes": [1]}}
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({**whole, **change}))
    with pytest.raises(EvaluationError) as caught:
        render([path], tmp_path / "out")
    assert named in str(caught.value) and not (tmp_path / "out").exists()


def test_a_line_separator_inside_of_a_text_ends_no_line_and_bytes_that_are_no_text_are_named(tmp_path):
    log = EpisodeLog(tmp_path, {})
    log.append(EpisodeRecord(0, 5, False, 3, error="step 3: the policy said \u2028 and \x85"))
    log.close()
    again = EpisodeLog(tmp_path, {})
    again.close()
    assert again.records == log.records
    with (tmp_path / "episodes.jsonl").open("ab") as file:
        file.write(b'{"episode": "\xff"}\n')
    with pytest.raises(EvaluationError, match=r"episodes\.jsonl, line 2: not an episode"):
        EpisodeLog(tmp_path, {})
