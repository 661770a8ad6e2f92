"""Claims about what is no measurement: no episodes, no steps, no time, NaN, another task's data. An error each."""

import dataclasses
import itertools
import multiprocessing
import os
import queue
import shutil
import threading
import time
import types
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from pointmass import PointTask
from test_evaluation_diagnose import SIZE, Seeing, record
from test_evaluation_rollout import evaluate

from gap_vla.cli.arguments import load_policy
from gap_vla.cli.evaluate import parse
from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.errors import UserError
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
from gap_vla.rollouts.evaluation import evaluated
from gap_vla.rollouts.heldout import held_out
from gap_vla.rollouts.interventions import IntervenedPolicy
from gap_vla.rollouts.policy import asked, identity
from gap_vla.rollouts.record import EpisodeLog
from gap_vla.rollouts.recordings import Recording, from_episode, from_simulator
from gap_vla.rollouts.summary import describe, title
from gap_vla.rollouts.task import SimTask
from gap_vla.rollouts.workers import Crash, Reset, Step, _answer, _Slot
from gap_vla.serving.client import RemotePolicy
from gap_vla.serving.loading import LoadedPolicy
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

    def __init__(self):
        self.released = threading.Event()

    def act(self, observations, episode_ids):
        self.released.wait(300)
        return super().act(observations, episode_ids)


def test_a_policy_that_never_answered_has_no_success_rate(tmp_path):
    limits = Limits(policy=0.2, policy_first=0.2)
    policy = Silent()
    with pytest.raises(PolicyUnavailable, match=r"within 0\.2 s; 0 of 1 episodes are finished, none is kept"):
        evaluate(policy, tmp_path, episodes=1, limits=limits)
    policy.released.set()
    assert not (tmp_path / "summary.json").exists()


def test_the_first_answer_never_has_less_time_than_the_later_ones(tmp_path):
    class Late(ExpertPolicy):
        def act(self, observations, episode_ids):
            time.sleep(0.2 if int(np.max(episode_ids)) == 0 else 0)
            return super().act(observations, episode_ids)

    class Lazy(ExpertPolicy):
        loaded = False

        def reset(self, episode_ids):
            time.sleep(0 if self.loaded else 2.5)
            self.loaded = True

    limits = Limits(policy=60, policy_first=0.1, simulator=60, simulator_first=0.001)
    assert evaluate(Late(), tmp_path / "late", episodes=1, limits=limits)["success_rate"] == 1.0
    limits = Limits(policy=2, policy_first=60)
    found = evaluate(Lazy(), tmp_path / "lazy", episodes=2, workers=1, slots_per_worker=1, limits=limits)
    assert found["outcomes"] == [1, 1]


class Stopped(queue.SimpleQueue):
    """The process is stopped in the first wait for every answer, which is over when it goes on."""

    waits = 0

    def get(self, timeout=None):
        self.waits += timeout is not None
        if self.waits % 2:
            raise queue.Empty
        return super().get(timeout=timeout)


def test_a_stop_of_the_process_is_no_fault_of_the_policy_or_the_simulator(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(monotonic=itertools.count(0, 100).__next__, perf_counter=time.perf_counter)
    monkeypatch.setattr("gap_vla.rollouts.policy.queue", types.SimpleNamespace(Empty=queue.Empty, SimpleQueue=Stopped))
    monkeypatch.setattr("gap_vla.rollouts.workers.time", clock)
    assert evaluate(ExpertPolicy(), tmp_path, episodes=2)["outcomes"] == [1, 1]


def test_a_server_has_the_time_that_the_policy_limit_allows(monkeypatch):
    asked = {}
    monkeypatch.setattr("gap_vla.serving.load_policy", lambda name, **how: asked.update(how) or LoadedPolicy(None))
    for words, limit in (("", 600), ("--policy-limit 9", 600), ("--policy-limit 900", 900)):
        load_policy(parse(["--policy", "ws://localhost:1", "--task", "stack", *words.split()]))
        assert asked["limit"] == limit


def test_episodes_that_were_all_cut_short_are_no_success_rate(tmp_path):
    for _ in range(2):  # also when it is asked for again
        with pytest.raises(EvaluationError, match=r"all 2 episodes were cut short.*step 0: .*shape \(2, 5\), the task"):
            evaluate(RandomPolicy(5), tmp_path, episodes=2)
    assert not (tmp_path / "summary.json").exists()


def test_a_summary_of_another_program_that_comes_while_episodes_are_played_stays(tmp_path):
    policy = RandomPolicy(7)
    act = policy.act

    def slow(observations, episode_ids):
        (tmp_path / "summary.json").write_text("{}")
        return act(observations, episode_ids)

    policy.act = slow
    with pytest.raises(EvaluationError, match=r"summary\.json came while the episodes were played; move it away"):
        evaluate(policy, tmp_path, episodes=2)
    assert (tmp_path / "summary.json").read_text() == "{}"
    (tmp_path / "summary.json").unlink()
    assert evaluate(RandomPolicy(7), tmp_path, episodes=2)["episodes"] == 2


def test_an_evaluation_that_is_put_into_the_place_of_one_that_works_stays(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    evaluate(RandomPolicy(7), theirs, episodes=1)
    before = {path: path.read_bytes() for path in theirs.rglob("*.json*")}

    class Slow(RandomPolicy):
        def act(self, observations, episode_ids):
            if theirs.exists():
                mine.rename(tmp_path / "renamed")
                theirs.rename(mine)
            return super().act(observations, episode_ids)

    with pytest.raises(EvaluationError, match="mine was renamed meanwhile, and another put there"):
        evaluate(Slow(7), mine, episodes=2)
    assert {path: (mine / path.name).read_bytes() for path in before} == before


def test_the_film_of_an_episode_makes_no_folder_anew_that_was_removed_meanwhile(tmp_path, monkeypatch):
    out, append = tmp_path / "out", EpisodeLog.append

    def removed(log, record):
        append(log, record)
        shutil.rmtree(out)

    monkeypatch.setattr(EpisodeLog, "append", removed)
    with pytest.raises(EvaluationError, match="out was renamed or removed meanwhile; give it its name again"):
        evaluate(RandomPolicy(7), out, episodes=2, videos=2)
    assert not out.exists()


def test_errors_of_episodes_steer_no_terminal(tmp_path):
    summary = evaluate(RandomPolicy(7), tmp_path, episodes=1)
    text = describe({**summary, "errors": [{"episode": 0, "error": "\x1b[2J\x9b2K\nno errors"}]})
    assert text.splitlines()[-1] == "counted as failed, episode 0: [2J 2K no errors"


@pytest.mark.parametrize("value", [NAN, float("inf"), 2**63, -1e30])
def test_what_no_action_can_be_is_not_compared_with_recorded_ones(value):
    class Absurd(RandomPolicy):
        def act(self, observations, episode_ids):
            return np.asarray([[value] * 7 for _ in episode_ids])

    with pytest.raises(PolicyError, match="random: the action in episode 4 is NaN or no action, beyond ±100; take"):
        asked(Absurd(7), {}, [4])


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


class Odd(PointTask):
    """A simulator of somebody else's, whose watcher and `info` say what nobody understands."""

    said, phase = {}, "move"

    def identity(self):
        return {"size": 3}

    def make(self):
        env, step = super().make(), PointTask.make(self).step.__func__
        env.step = lambda action: (*step(env, action)[:4], self.said)
        return env

    def make_watcher(self, env):
        return types.SimpleNamespace(look=lambda: self.phase)


@pytest.mark.parametrize(
    ("said", "phase", "problem"),
    [
        ({"is_success": True}, "move", "its info has success None after a step; it must be 0 or 1"),
        ({"success": NAN}, "move", "its info has success nan after a step"),
        ({"success": 0, "render_seconds": NAN}, "move", "its info's render_seconds is nan; it must be a number from 0"),
        ({"success": np.float32(1)}, "fly", "phase 'fly' is none of its task's phases"),
        ({"success": np.float32(1)}, "grip", None),
    ],
)
def test_a_simulator_that_does_not_say_success_or_names_another_phase_has_failed(said, phase, problem):
    task = Odd()
    for name, value in (("said", said), ("phase", phase)):
        object.__setattr__(task, name, value)
    slot = _Slot(task, "phases")
    answers = [_answer(slot, Reset(0, 5)), _answer(slot, Step(0, np.zeros(7)))]
    found = [one for one in answers if isinstance(one, Crash)]
    assert problem in found[0].message if problem else answers[1].success and answers[1].done
    assert title(evaluated(RandomPolicy(7), task, 0)) == "random on pointmass"  # its identity says nothing of a task


class Changed(PointTask):
    """A simulator of somebody else's; `change` makes its observations."""

    change = staticmethod(dict)

    def make(self):
        env = super().make()
        reset, observe = env.reset, env._observe
        env.reset = lambda **options: (reset(**options)[0], {"success": True})
        env._observe = lambda: self.change(observe())
        return env


def test_a_layout_that_says_success_before_the_first_step_is_played(tmp_path):
    for episodes in (1, 2):  # and goes on
        assert evaluate(RandomPolicy(7), tmp_path, task=Changed(), episodes=episodes)["steps"] == [30] * episodes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda seen: {**seen, str(seen["proprio"][0]): np.zeros(3)}, "what the simulators show: no '.*; let all of"),
        (  # the second layout alone has an instruction of its own
            lambda seen: seen | ({"language_instruction": "go"} if seen["image_primary"][0, 0, 2] > 40 else {}),
            "what the simulators show: no 'language_instruction'; let all of them show the same arrays",
        ),
        (
            lambda seen: {**seen, "image_primary": seen["image_primary"] / 255},
            r"are float64\[16, 16, 3\], and a film needs",
        ),
        (lambda seen: {**seen, "image_primary": np.zeros((3, 16, 16), np.uint8)}, r"uint8\[3, 16, 16\], and a film"),
    ],
)
def test_a_simulator_that_shows_what_cannot_be_stacked_or_filmed_is_said_to(tmp_path, monkeypatch, change, said):
    monkeypatch.setattr(Changed, "change", staticmethod(change))
    with pytest.raises(EvaluationError, match=said):
        evaluate(RandomPolicy(7), tmp_path, task=Changed(horizon=2), episodes=2, videos=2)


def lost_at_first_move(seen):
    return seen if seen["proprio"][0] == 0 or seen["image_primary"][0, 0, 2] > 40 else {**seen, "image_primary": None}


def test_a_picture_that_is_lost_costs_its_episode_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Changed, "change", staticmethod(lost_at_first_move))  # of the first layout, not of the second
    summary = evaluate(RandomPolicy(7), tmp_path, task=Changed(horizon=2), episodes=2)
    assert summary["simulator_errors"] == 1
    assert "it shows no image_primary" in str(summary["errors"])
    monkeypatch.setattr(Changed, "change", staticmethod(lambda seen: {**seen, "goal_image": None}))  # none at all
    assert evaluate(RandomPolicy(7), tmp_path / "b", task=Changed(), episodes=2)["simulator_errors"] == 0


@pytest.mark.parametrize("seeds", [{0: -1}, {0: 2**40}, {0: 1.5}])
def test_layouts_of_a_policy_that_no_simulator_has_are_refused(tmp_path, seeds):
    policy = RandomPolicy(7)
    policy.layout_seeds = seeds
    with pytest.raises(EvaluationError, match=r"random: layout_seeds is .*; it must be a whole number from 0 to"):
        evaluate(policy, tmp_path, episodes=1)
    assert not list(tmp_path.iterdir())


def test_layouts_may_be_numbers_of_numpy(tmp_path):
    policy = RandomPolicy(7)
    policy.layout_seeds = dict(enumerate(np.arange(10, 12)))
    assert evaluate(policy, tmp_path, episodes=2)["layout_seeds"] == [10, 11]


def test_a_policy_that_knows_no_layouts_is_given_none_of_others(tmp_path):
    policy = RandomPolicy(7)
    policy.layout_seeds = {}
    with pytest.raises(EvaluationError, match="random knows 0 layouts, 1 episodes are asked for"):
        evaluate(policy, tmp_path, episodes=1)


def test_actions_that_are_cut_are_warned_of(tmp_path, monkeypatch):
    policy = RandomPolicy(7)

    def act(seen, ids):
        with warnings.catch_warnings():  # after which Python tells again what it has told
            return np.full((len(ids), 7), 2.5, np.float32)

    monkeypatch.setattr(policy, "act", act)
    with pytest.warns(UserWarning) as told:
        evaluate(policy, tmp_path, episodes=1)
    assert [str(one.message) for one in told] == ["random returned actions beyond ±2, which are cut to -1 to 1"]


@pytest.mark.parametrize("value", [np.int64(3), NAN, Path("x")])
def test_what_a_policy_says_of_itself_is_json(value):
    policy = RandomPolicy(7)
    policy.identity = {"step": value}
    with pytest.raises(PolicyError, match="random: its identity holds something else than numbers"):
        identity(policy)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("size", NAN, "pointmass: its identity holds something else than numbers"),
        ("size", np.int64(3), "pointmass: its identity holds something else than numbers"),
        ("name", 3, r"the task: name is 3 \(int\); it must be a text"),
        ("instruction", None, "the task: instruction is null; it must be a text"),
        ("action_dim", 7.0, r"pointmass: action_dim is 7\.0; it must be a whole number"),
    ],
)
def test_what_a_task_says_of_itself_can_be_written_down(tmp_path, key, value, said):
    with pytest.raises(UserError, match=said):
        evaluate(RandomPolicy(7), tmp_path, task=PointTask(**{key: value}), episodes=1)
    assert not list(tmp_path.iterdir())


def test_a_task_that_lacks_something_is_told_what(tmp_path):
    with pytest.raises(EvaluationError, match=r"the task has no `horizon`; `gap_vla\.rollouts\.Task` says what"):
        evaluate(RandomPolicy(7), tmp_path, task=types.SimpleNamespace(name="n", instruction="i"), episodes=1)


def test_a_program_that_evaluates_while_it_is_imported_is_told_where_to_call_it(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(EvaluationError, match=r'has to be called below `if __name__ == "__main__":`'):
        evaluate(RandomPolicy(7), tmp_path)


@pytest.mark.parametrize("phases", [("move", "grip", "move"), (0, 1), ("move", "")])
def test_phases_that_nobody_could_tell_apart_are_refused_before_a_simulator_starts(tmp_path, phases):
    with pytest.raises(EvaluationError, match=r"^phases are .*; give each a name of its own"):
        evaluate(RandomPolicy(7), tmp_path / "new", task=dataclasses.replace(PointTask(), phases=phases))
    assert not (tmp_path / "new").exists()


def test_a_task_without_phases_needs_no_watcher(tmp_path):
    whole = PointTask()
    parts = ("name", "instruction", "horizon", "action_dim", "make", "identity")
    task = types.SimpleNamespace(**{part: getattr(whole, part) for part in parts}, phases=None)
    assert evaluate(RandomPolicy(7), tmp_path, task=task, episodes=1)["simulator_errors"] == 0
    assert "class" not in evaluated(RandomPolicy(7), task, 0)["task"], "identity() is wholly its own"
    task.phases = ("a", "b", "a")
    assert evaluate(RandomPolicy(7), tmp_path, task=task, episodes=2, watch=False)["phases"] is None


class Nameless(RandomPolicy):
    """A policy that does not say which one it is."""

    def __init__(self, seed):
        super().__init__(7, seed)
        del self.identity


def test_going_on_with_a_policy_that_does_not_say_which_it_is_is_warned_of(tmp_path):
    with warnings.catch_warnings(action="error"):
        evaluate(Nameless(0), tmp_path, episodes=2)
        for _ in range(2):
            evaluate(RandomPolicy(7), tmp_path / "known", episodes=2)
    with pytest.warns(UserWarning, match="holds 2 episodes of 'random', which has no `identity`; were they another"):
        evaluate(Nameless(1), tmp_path, episodes=3)


def test_neither_does_one_that_is_shown_something_else_know_which_it_is(tmp_path):
    pictures, numbers = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 7), np.float32)
    library = [Recording({"image_primary": pictures}, numbers, numbers)]
    evaluate(IntervenedPolicy(Nameless(0), "images_black", library), tmp_path, episodes=2)
    with pytest.warns(UserWarning, match="which has no `identity`"):
        evaluate(IntervenedPolicy(Nameless(1), "images_black", library), tmp_path, episodes=3)
    own = RandomPolicy(7)
    own.wrapped = Nameless  # whatever somebody calls so
    with warnings.catch_warnings(action="error"):
        for episodes in (1, 2):
            evaluate(own, tmp_path / "own", episodes=episodes)


class Reversing:
    """Hands on whatever it does not have."""

    def __init__(self, policy):
        self._inner = policy

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def act(self, observations, episode_ids):
        return -self._inner.act(observations, episode_ids)


def test_what_hands_on_to_a_policy_is_another_one(tmp_path):
    evaluate(RandomPolicy(7), tmp_path, episodes=1)
    with pytest.raises(EvaluationError, match=r"another evaluation \(policy.class: not given then, 'Reversing' now\)"):
        evaluate(Reversing(RandomPolicy(7)), tmp_path, episodes=2)


def test_a_task_of_ones_own_with_another_instruction_is_another_task(tmp_path):
    evaluate(RandomPolicy(7), tmp_path, task=PointTask(), episodes=1)
    other = dataclasses.replace(PointTask(), instruction="the blue one")
    with pytest.raises(EvaluationError, match=r"holds another evaluation \(task.instruction: .* 'the blue one' now"):
        evaluate(RandomPolicy(7), tmp_path, task=other, episodes=1)


class Short(SimTask):
    """Ours, which ends before its horizon."""

    def make(self):
        return gymnasium.wrappers.TimeLimit(PointTask().make(), 3)


class Handing:
    """A task in the place of another one."""

    def __init__(self, task):
        self._inner = task

    def __getattr__(self, name):
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)


def test_a_changed_class_of_a_task_of_ours_takes_over_no_rollouts_of_it_and_may_end_when_it_likes(tmp_path):
    ours = dataclasses.replace(SimTask("assembly", "put it on", 5, 7, ()), cameras=())
    mine = Short(**{field.name: getattr(ours, field.name) for field in dataclasses.fields(ours)})
    kinds = [evaluated(RandomPolicy(7), task, 0)["task"].get("class") for task in (ours, mine, Handing(ours))]
    assert kinds == [None, "Short", "Handing"] and "class" not in evaluated(RandomPolicy(7), PointTask(), 0)["task"]
    for episodes in (1, 2):
        summary = evaluate(RandomPolicy(7), tmp_path, task=mine, episodes=episodes, watch=False, videos=0)
        assert summary["steps"] == [3] * episodes


class Foreign:
    """Somebody's policy that remembers nothing, and acts while another evaluation asks for it."""

    name = "foreign"

    def __init__(self, *_):
        self.acts, self.goes_on = threading.Event(), threading.Event()

    def reset(self, episode_ids):
        pass

    def act(self, observations, episode_ids):
        self.acts.set()
        assert self.goes_on.wait(60)
        return np.zeros((len(episode_ids), 7))


class Ours(Foreign, RandomPolicy):
    pass


@pytest.mark.parametrize("kind", [Ours, Foreign])
def test_a_policy_is_not_evaluated_twice_at_once(kind, tmp_path):
    policy = kind()
    policy.goes_on.set()
    evaluate(policy, tmp_path / "done", episodes=1)
    policy.goes_on.clear()
    policy.acts.clear()
    first = threading.Thread(target=evaluate, args=(policy, tmp_path / "a"), kwargs={"episodes": 1})
    first.start()
    assert policy.acts.wait(60)
    told = "acts in another evaluation at the same time; give each a policy object of its own"
    altered = IntervenedPolicy(policy, "images_black", [])
    try:
        if kind is Ours:
            for shown in (policy, altered):
                with pytest.raises(EvaluationError, match=told):
                    evaluate(shown, tmp_path / "b", episodes=1)
            evaluate(policy, tmp_path / "done", episodes=1)  # it acts no more there
        else:
            policy.goes_on.set()
            with pytest.warns(UserWarning, match=f"{told}, if it remembers"):
                evaluate(policy, tmp_path / "b", episodes=1)
    finally:
        policy.goes_on.set()
        first.join()
    assert evaluate(policy, tmp_path / "c", episodes=1)["episodes"] == 1  # one after the other


class Wandering(RandomPolicy):
    def act(self, observations, episode_ids):
        os.chdir("elsewhere")
        Path("elsewhere").mkdir()
        return super().act(observations, episode_ids)


def test_a_policy_that_changes_the_present_folder_takes_no_results_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    evaluate(Wandering(7), "results", episodes=2)
    assert len((tmp_path / "results" / "episodes.jsonl").read_text().splitlines()) == 2
    assert not [*tmp_path.glob("elsewhere/**/*.json*")]


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


def pictures(steps, kind=np.uint8):
    return {"image_primary": np.zeros((steps, 8, 8, 3), kind)}


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("images", pictures(5), "proprio has 4 steps, image_primary 5$"),
        ("moved", pictures(5), "proprio has 4 steps, moved image_primary 5$"),
        ("free", np.zeros(5, bool), "proprio has 4 steps, free 5$"),
        ("action", np.zeros((5, 7)), "proprio has 4 steps, action 5$"),
        ("images", pictures(4, np.float32), r"image_primary is float32\[4, 8, 8, 3\]; make uint8 of 4 axes of it"),
        ("transition", np.full(4, 0.2), r"transition is float64\[4\]; make bool of 1 axes of it"),
        ("action", np.zeros(4), r"action is float64\[4\]; make number of 2 axes of it"),
        (
            "action",
            types.SimpleNamespace(dtype="torch.float32"),
            "action is a SimpleNamespace; make a numpy array: number of",
        ),
        ("action", np.asmatrix(np.zeros((4, 7))), "action is a matrix; make a numpy array: number of 2 axes of it"),
        ("images", {"top": np.zeros((4, 0, 8, 3), np.uint8)}, r"top is uint8\[4, 0, 8, 3\], no picture; leave it out"),
    ],
)
def test_a_recording_whose_arrays_are_of_other_lengths_or_forms_is_refused(field, values, said):
    steps = {"proprio": np.zeros((4, 9)), "action": np.zeros((4, 7)), "images": pictures(4)}
    Recording(**steps, transition=np.zeros(4, bool))
    with pytest.raises(EvaluationError, match=f"^a recording: {said}"):
        Recording(**{**steps, field: values})


class Answering(Seeing):
    def __init__(self, answer):
        self.answer = answer

    def act(self, observations, episode_ids):
        return self.answer(len(episode_ids))


@pytest.mark.parametrize("measure", [held_out, open_loop])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda rows: np.full((rows, 7), NAN), "action in episode 0 is NaN or no action"),
        (lambda rows: np.zeros((rows - 1, 7)), r"returned actions \(\d, 7\) for \d+ observations"),
        (lambda rows: np.ma.masked_less(np.zeros((rows, 7)), 1), "returned masked entries, not an array of numbers"),
        (lambda rows: np.array(["forward"] * rows), r"returned <U7"),
        (lambda rows: np.ones((rows, 7), bool), "returned bool, not an array of numbers"),
        (
            lambda rows: np.zeros((rows, 5)),
            "^a recording: the policy's actions are 5 wide, the recorded ones 7; give",
        ),
    ],
)
def test_answers_that_are_no_actions_are_no_error_figure(measure, answer, message):
    with pytest.raises(PolicyError, match=message):
        measure(Answering(answer), [record(seed) for seed in range(2)])


@pytest.mark.parametrize("measure", [held_out, open_loop])
def test_answers_that_change_their_width_are_told_from_a_step_on(measure):
    asked = []

    def answer(rows):
        asked.append(rows)
        return np.zeros((rows, 5 if len(asked) == 3 else 7))

    with pytest.raises(PolicyError, match=r"a recording: the .* 5 wide, the recorded ones 7; before step 2 it gave 7"):
        measure(Answering(answer), [record(seed) for seed in range(2)])


def test_pictures_of_one_colour_say_nothing_about_looking():
    seen = [record(seed) for seed in range(2)]
    black = [dataclasses.replace(one, images={"image_primary": 0 * one.images["image_primary"]}) for one in seen]
    film = black[1].images["image_primary"] + np.array([9, 0, 0], np.uint8)
    red = [dataclasses.replace(one, images={"image_primary": film}) for one in black]
    for odd in (black, [seen[0], black[1]], [seen[0], red[1]]):
        with pytest.raises(EvaluationError, match="a recording: image_primary shows one colour alone"):
            open_loop(Seeing(), odd)


@pytest.mark.parametrize("measure", [held_out, open_loop])
def test_recordings_that_show_different_things_are_not_measured_together(measure):
    first, other = (record(seed) for seed in range(2))
    small = {key: pictures[:, ::2, ::2] for key, pictures in other.images.items()}
    wide = np.concatenate([other.proprio] * 2, axis=1)
    for change, key in (
        ({"images": {}}, "image_primary"),
        ({"images": small}, "image_primary"),
        ({"proprio": wide}, "proprio"),
    ):
        odd = dataclasses.replace(other, name="demo_1", **change)
        with pytest.raises(
            EvaluationError, match=f"^demo_1: {key} is missing, or of another size than in a recording; leave one"
        ):
            measure(Seeing(), [first, odd])
    two = dataclasses.replace(
        other, name="demo_1", images={"image_wrist": np.ones_like(small["image_primary"]), **other.images}
    )
    with pytest.raises(EvaluationError, match=r"^demo_1: image_wrist is not in a recording; leave one of them out"):
        measure(Seeing(), [first, two])


@pytest.mark.parametrize("measure", [held_out, open_loop])
def test_recordings_that_never_move_measure_nothing(measure):
    still = [Recording(r.images, r.proprio, np.zeros_like(r.action)) for r in (record(0), record(1))]
    with pytest.raises(EvaluationError, match="a recording and on: the recorded actions are all the same; give"):
        measure(Seeing(), still)


def test_diagnoses_of_nothing_are_refused(tmp_path):
    with pytest.raises(PolicyError, match="needs two or more"):
        open_loop(Seeing(), [record(0)])
    with pytest.raises(EvaluationError, match="layouts is 0"):
        from_simulator(sim_task("assembly"), [])
    with pytest.raises(EvaluationError, match="workers is 0"):
        from_simulator(sim_task("assembly"), [1], workers=0)
    with pytest.raises(EvaluationError, match="episodes is 0"):
        closed_loop(Seeing(), PointTask(size=SIZE), [record(0)], episodes=0, seed=0, out_dir=tmp_path)


@pytest.mark.parametrize(
    "address",
    ["ws://", "ws://:8000", "ws://localhost:99999", "ws://localhost:port", "ws:///x", "ws://[::1", "ws://h:0"],
)
def test_an_address_that_is_none_is_refused_at_once(address):
    with pytest.raises(PolicyError, match=r"is no address .*give ws://HOST:PORT"):
        RemotePolicy(address, patience=3600)


@pytest.mark.parametrize("address", ["ws://me:secret@h:0", "ws://h:port/?token=secret", "ws://me:secret@[::1"])
def test_an_address_that_is_none_is_refused_without_what_is_secret_in_it(address):
    with pytest.raises(PolicyError, match="the address, whose user, password or query is not shown, is none") as told:
        RemotePolicy(address, patience=3600)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("name", ["patience", "limit"])
@pytest.mark.parametrize("seconds", [-1, NAN, float("inf"), "long"])
def test_a_patience_or_limit_that_is_no_time_is_refused(name, seconds):
    with pytest.raises(PolicyError, match=f"{name} is"):
        RemotePolicy("ws://localhost:9", **{"patience": 0, name: seconds})
