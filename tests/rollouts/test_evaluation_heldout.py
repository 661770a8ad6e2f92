"""Claims about the held-out error."""

import dataclasses
import re
import types
import warnings

import numpy as np
import pytest
from test_evaluation_diagnose import SIZE, Blind, Seeing, record

from gap_vla.report.diagnose_report import report
from gap_vla.rollouts.diagnose import open_loop
from gap_vla.rollouts.heldout import held_out
from gap_vla.rollouts.measuring import LEAST_STD, cameras_of, in_deviations, left_out
from gap_vla.rollouts.policy import PolicyError
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.recordings import Recording


@pytest.fixture(scope="module")
def recordings():
    assert SIZE == 64
    return [record(seed) for seed in range(10)]


class Mean(Seeing):
    def __init__(self, recordings):
        self.mean = np.concatenate([recording.action for recording in recordings]).mean(0)

    def act(self, observations, episode_ids):
        return np.tile(self.mean, (len(episode_ids), 1))


class Playback(Seeing):
    def __init__(self, recordings):
        self.recordings = recordings

    def reset(self, episode_ids):
        self.step = dict.fromkeys(episode_ids, -1)

    def act(self, observations, episode_ids):
        for episode in episode_ids:
            self.step[episode] += 1
        return np.stack([self.recordings[e].action[self.step[e]] for e in episode_ids])


def test_the_mean_action_scores_one_and_the_recorded_one_zero(recordings):
    assert held_out(Mean(recordings), recordings).error == pytest.approx(1, rel=1e-4)
    assert held_out(Playback(recordings), recordings).error == 0


def test_a_joint_that_stands_still_counts_for_nothing_however_many_steps_are_summed_up():
    recorded = np.stack([np.sin(np.arange(3000)), np.full(3000, 57.3)], 1).astype(np.float32)
    assert recorded.std(0)[1] > LEAST_STD
    assert not in_deviations(recorded, "here")(np.add(recorded, [0, 0.05]), recorded).any() and not left_out(recorded)


def test_actions_in_degrees_are_measured_and_a_hundred_times_the_recorded_ones_are_none(recordings):
    turned = [dataclasses.replace(one, action=one.action * 180) for one in recordings]
    assert held_out(Playback(turned), turned).error == 0
    beyond = [dataclasses.replace(one, action=one.action * 101) for one in turned]
    with pytest.raises(PolicyError, match="the action in episode 0 is NaN or no action, beyond ±18000; take another"):
        held_out(Playback(beyond), turned)


def test_what_varies_too_little_to_count_is_named(recordings):
    unit = np.float32([5e-5, 1, 1, 1, 1, 1, 1])
    small = [dataclasses.replace(one, action=one.action * unit) for one in recordings]
    said = r"action column 0 \(3.*e-05\) varies by a standard deviation of no more than 0.0001, and is left out"
    for measure in (held_out, open_loop):
        with pytest.warns(UserWarning, match=f"^a recording and on: {said}; give recordings in a smaller unit"):
            found = measure(Seeing(), small)
        assert re.match(said, found.left_out)
    assert found.left_out in report(found)
    rounding = np.random.default_rng(0).normal(0, 5e-8, (100, 1))  # of differences of positions that stand still
    assert not left_out(np.hstack([rounding, np.sin(np.arange(100.0))[:, None]]).astype(np.float32))


def test_a_policy_may_fill_one_array_with_its_actions_again_and_again(recordings):
    class Reusing(Playback):
        answer = np.zeros((8, 7), np.float32)

        def act(self, observations, episode_ids):
            self.answer[: len(episode_ids)] = super().act(observations, episode_ids)
            return self.answer[: len(episode_ids)]

    assert held_out(Reusing(recordings), recordings).error == 0


@pytest.mark.parametrize(
    ("says", "advice"),
    [
        ({"identity": {"execute": 8}}, "load it with execute=1"),
        ({"identity": {"keys": {"execute": 8}}}, "give its KeyMapping execute=1"),
        (
            {"server_metadata": {"answers": "single actions", "identity": {"execute": 8}}},
            "serve it with --execute 1, or",
        ),
        ({"server_metadata": {"answers": "chunks", "identity": {"execute": 8}}, "identity": {"execute": 1}}, None),
        (
            {"server_metadata": {"answers": "single actions", "identity": "a"}, "identity": {"execute": "ensemble"}},
            None,
        ),
        ({"identity": None}, None),
    ],
)
def test_a_policy_that_does_not_predict_at_every_step_is_said_to(recordings, says, advice):
    policy = Seeing()
    vars(policy).update(says)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        held_out(policy, recordings)
    said = {str(one.message) for one in told}
    assert len(said) == (advice is not None)
    assert all(f"seeing predicts at one step in 8 and looks at no other; {advice}" in one for one in said)


def test_a_better_policy_has_a_smaller_error_and_the_parts_add_up(recordings):
    seeing, blind = held_out(Seeing(), recordings), held_out(Blind(), recordings)
    assert seeing.error < blind.error
    share = seeing.transition_steps / seeing.steps
    assert share * seeing.error_transition + (1 - share) * seeing.error_consistent == pytest.approx(seeing.error)


def test_data_without_rho_or_phases_give_one_figure(recordings):
    bare = [Recording(r.images, r.proprio, r.action) for r in recordings]
    found = held_out(Seeing(), bare)
    assert found.error_transition is None and found.error_consistent is None and found.transition_steps == 0


def test_pictures_that_show_nothing_measure_nothing(recordings):
    black = {key: np.zeros_like(pictures) for key, pictures in recordings[1].images.items()}
    shown = [recordings[0], dataclasses.replace(recordings[1], images=black, name="episode 1")]
    with pytest.raises(EvaluationError, match=r"^episode 1: image_primary shows one colour alone; film it again"):
        held_out(Seeing(), shown)
    told = types.SimpleNamespace(identity={"keys": {"observation": {"proprio": "arm"}}})
    assert cameras_of(told, black) == [], "its key file sends no picture"
    sends = {"keys": {"observation": dict.fromkeys(black, "a")}}
    assert cameras_of(types.SimpleNamespace(identity=sends, cameras=("cam_high",)), black) == [*black]


def test_a_recording_unlike_the_first_is_named_however_many_lie_between(recordings):
    wider = dataclasses.replace(recordings[9], proprio=np.tile(recordings[9].proprio, 2), name="episode 9")
    with pytest.raises(
        EvaluationError, match=r"^episode 9: proprio is missing, or of another size than in a recording"
    ):
        held_out(Seeing(), [*recordings[:8], wider])


def test_nothing_held_out_is_an_error():
    with pytest.raises(PolicyError, match="no held-out episodes"):
        held_out(Seeing(), [])
