"""Claims about diagnosis: a policy that looks and one that does not can be told apart."""

import dataclasses
import types
import warnings

import numpy as np
import pytest
from pointmass import STEP, PointExpert, PointTask

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.report.diagnose_report import report, verdict
from gap_vla.rollouts.diagnose import closed_loop, open_loop, scenes
from gap_vla.rollouts.donors import donor_of, donors_of
from gap_vla.rollouts.heldout import held_out
from gap_vla.rollouts.interventions import INTERVENTIONS, IntervenedPolicy
from gap_vla.rollouts.policy import ExpertPolicy, PolicyError, RandomPolicy
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.recordings import Recording, from_episode, near_switches
from gap_vla.rollouts.task import sim_task

SIZE = 64


def record(seed, task=None):
    task = task or PointTask(size=SIZE)
    env = task.make()
    observation, _ = env.reset(seed=seed)
    expert, moments, actions, phases, over = PointExpert(env), [], [], [], False
    while not over:
        moments.append(observation)
        actions.append(expert.act())
        phases.append(expert.phase)
        observation, _, over, _, _ = env.step(actions[-1])
    return Recording(
        images={"image_primary": np.stack([moment["image_primary"] for moment in moments])},
        proprio=np.stack([moment["proprio"] for moment in moments]),
        action=np.array(actions),
        transition=near_switches(phases),
    )


@pytest.fixture(scope="module")
def recordings():
    return [record(seed) for seed in range(6)]


class Seeing:
    """Reads the target off the picture, its own place off the proprioception."""

    name = "seeing"

    def reset(self, episode_ids):
        pass

    def act(self, observations, episode_ids):
        actions = np.zeros((len(episode_ids), 7), np.float32)
        for row, picture in enumerate(observations["image_primary"]):
            marked = np.argwhere(picture[..., 0] > 0)
            place = marked[0] / (SIZE - 1) * 2 - 1 if len(marked) else np.zeros(2)
            target = np.array([*place, picture[0, 0, 2] / 255 * 2 - 1])
            gap = target - observations["proprio"][row][:3]
            actions[row, :3] = np.clip(gap / STEP, -1, 1)
            actions[row, 6] = 1 if np.abs(gap).max() < 0.04 else -1
        return actions


class Blind(Seeing):
    """Goes to the middle of all targets, whatever the picture shows."""

    name = "blind"

    def act(self, observations, episode_ids):
        return super().act({**observations, "image_primary": np.zeros_like(observations["image_primary"])}, episode_ids)


def effects(policy, recordings):
    found = open_loop(policy, recordings)
    return found, {effect.intervention: effect for effect in found.effects}


def test_a_policy_that_looks_is_told_from_one_that_does_not(recordings):
    seeing, seen = effects(Seeing(), recordings)
    blind, unseen = effects(Blind(), recordings)
    for name in ("images_black", "images_swapped"):
        assert seen[name].change > 0.5 and unseen[name].change == 0
    assert unseen["proprio_swapped"].change > 0.1
    assert seeing.error < 0.3 < blind.error == unseen["images_swapped"].error
    assert seen["images_swapped"].error > 2 * seeing.error
    assert verdict(seeing).startswith("It looks:") and verdict(blind).startswith("It hardly looks")


class Repeating(Seeing):
    """Does what was recorded in each place, to the last bit, and never looks."""

    name = "repeating"

    def __init__(self, recordings):
        self.known = {row.tobytes(): action for one in recordings for row, action in zip(one.proprio, one.action)}

    def act(self, observations, episode_ids):
        return np.stack([self.known[row.tobytes()] for row in observations["proprio"]])


def test_no_error_is_a_multiple_of_none(recordings):
    rng = np.random.default_rng(0)
    apart = [
        dataclasses.replace(one, proprio=one.proprio + rng.normal(0, 1e-3, one.proprio.shape).astype(np.float32))
        for one in recordings
    ]
    opened, found = effects(Repeating(apart), apart)
    assert opened.error == 0 and {one.cost for one in opened.effects} == {one.cost_interval for one in found.values()}
    rounding = Repeating(apart)
    rounding.known = {place: action * np.float32(1 + 2e-7) for place, action in rounding.known.items()}
    nearly, _ = effects(rounding, apart)
    assert 0 < nearly.error < 1e-6 and {(one.cost, one.cost_interval) for one in nearly.effects} == {(None, None)}
    assert found["images_swapped"].cost is None and found["proprio_swapped"].error > 0.1
    assert verdict(opened).startswith("It hardly looks: another episode's pictures give it an error of 0.000, another")
    other = [dataclasses.replace(apart[0], action=apart[0].action[::-1]), *apart[1:]]  # all but one are repeated
    _, found = effects(Repeating(apart), other)
    assert found["images_swapped"].cost == 1 and found["images_swapped"].cost_interval is None
    _, found = effects(rounding, other)
    assert found["images_swapped"].cost == pytest.approx(1) and found["images_swapped"].cost_interval is None
    assert "multiply its error by 1.00, another" in report(open_loop(Repeating(apart), other))


class Idle(Seeing):
    """Knows one action."""

    name = "idle"

    def act(self, observations, episode_ids):
        return np.full((len(episode_ids), 7), 0.1, np.float32)


def test_a_policy_that_always_does_the_same_is_said_to_be_none_to_judge(recordings):
    assert "may not have learned enough" in verdict(open_loop(Idle(), recordings))
    assert "may not have learned enough" not in verdict(open_loop(Blind(), recordings))


def test_the_change_is_split_into_transition_and_consistent_steps(recordings):
    found, seen = effects(Seeing(), recordings)
    transition = np.concatenate([recording.transition for recording in recordings])
    assert found.transition_steps == transition.sum() > 0
    effect, share = seen["images_black"], transition.mean()
    combined = share * effect.change_transition + (1 - share) * effect.change_consistent
    assert combined == pytest.approx(effect.change)


def test_a_policy_that_draws_its_actions_draws_the_same_under_every_intervention(recordings):
    found, seen = effects(RandomPolicy(7), recordings)
    assert {effect.change for effect in seen.values()} == {0.0} and found.between == 0 < found.error


def test_a_policy_that_answers_otherwise_when_asked_again_is_said_to(recordings):
    drawn = np.random.default_rng(0)
    policy = Seeing()
    policy.act = lambda observations, episode_ids: drawn.normal(0, 0.5, (len(episode_ids), 7))
    with pytest.warns(UserWarning, match="^seeing answers the same observations otherwise when asked again, by 0"):
        open_loop(policy, recordings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*asked again")
        open_loop(RandomPolicy(7), recordings)


class Trained(Seeing):
    """Ridge regression from pixels and proprioception to actions."""

    def __init__(self, name, recordings, shuffle):
        self.name = name
        inputs, actions = [], []
        for number, recording in enumerate(recordings):
            pictures = recordings[(number + shuffle) % len(recordings)].images["image_primary"]
            steps = np.minimum(np.arange(len(recording)), len(pictures) - 1)
            inputs.append(self.features(pictures[steps], recording.proprio))
            actions.append(recording.action)
        x, y = np.concatenate(inputs), np.concatenate(actions)
        self.weights = np.linalg.solve(x.T @ x + 3 * np.eye(x.shape[1]), x.T @ y)

    def features(self, pictures, proprio):
        flat = pictures.reshape(len(pictures), -1) / 255
        return np.concatenate([flat, proprio[:, :3], np.ones((len(pictures), 1))], 1)

    def act(self, observations, episode_ids):
        return self.features(observations["image_primary"], observations["proprio"]) @ self.weights


def test_training_with_pictures_shuffled_between_episodes_shows_in_the_table():
    task = PointTask(size=12)
    training, shown = [record(seed, task) for seed in range(250)], [record(seed, task) for seed in range(1000, 1008)]
    seeing, seen = effects(Trained("trained", training, 0), shown)
    blind, unseen = effects(Trained("trained on shuffled pictures", training, 7), shown)
    assert seen["images_swapped"].change > 2 * unseen["images_swapped"].change
    assert seen["images_swapped"].error > 1.5 * seeing.error
    assert unseen["images_swapped"].error < 1.05 * blind.error
    low, high = seen["images_swapped"].cost_interval
    assert 1.25 < low < seen["images_swapped"].cost < high and unseen["images_swapped"].cost_interval[1] < 1.1
    assert verdict(seeing).startswith("It looks:") and verdict(blind).startswith("It hardly looks")


def test_moved_objects_are_counted_only_where_nothing_is_held(recordings):
    shifted = []
    for seed, recording in enumerate(recordings):
        free = np.arange(len(recording)) < 2
        pictures = {"image_primary": recordings[(seed + 3) % 6].images["image_primary"][[0] * len(recording)]}
        shifted.append(Recording(recording.images, recording.proprio, recording.action, None, pictures, free))
    found, seen = effects(Seeing(), shifted)
    assert seen["objects_moved"].change > 0.3 and seen["objects_moved"].change_transition is None
    assert seen["objects_moved"].error is None
    assert "objects_moved: objects shifted by some centimetres, robot untouched; open loop until a" in report(found)
    assert "objects_moved" in report(found) and "steps, not known which are transitions; with" in report(found)
    known = [dataclasses.replace(one, transition=np.arange(len(one)) < 1) for one in recordings]
    assert f"steps, {len(known)} of them transitions; with" in report(open_loop(Seeing(), known))


def test_an_intervention_alters_only_what_it_names(recordings):
    now, first, other = (recordings[0].observation(3), recordings[0].observation(0), recordings[1].observation(3))
    for name, change in INTERVENTIONS.items():
        changed = change(now, first, other, ["image_primary"])
        assert set(changed) == ({"image_primary"} if name.startswith("images") else {"proprio"})
        for key, value in changed.items():
            assert value.shape == now[key].shape and value.dtype == now[key].dtype


def test_a_server_has_as_long_when_its_pictures_are_altered(recordings):
    served = Seeing()
    served.patience, served.warm_up = 5.0, lambda *_: None
    altered = IntervenedPolicy(served, "images_black", recordings)
    assert (altered.patience, altered.warm_up) == (5.0, served.warm_up)
    assert not hasattr(IntervenedPolicy(Seeing(), "images_black", recordings), "patience")


def test_a_changed_class_of_ours_is_another_policy_also_where_its_pictures_are_altered(recordings):
    class Changed(RandomPolicy):
        pass

    ours, changed = (IntervenedPolicy(kind(7), "images_black", recordings) for kind in (RandomPolicy, Changed))
    assert ours.identity == {"seed": 0, "intervention": "images_black"}  # as files of rollouts have it
    assert changed.identity == {**ours.identity, "class": Changed.__qualname__}
    changed._policy.identity = None
    assert IntervenedPolicy(changed._policy, "images_black", []).identity["intervention"] == "images_black"


def test_closed_loop_every_intervention_is_paired_with_the_undisturbed_policy(recordings, tmp_path):
    options = {"episodes": 6, "seed": 50, "workers": 1, "slots_per_worker": 6, "videos": 0, "progress": False}
    found = {
        e.intervention: e for e in closed_loop(Seeing(), PointTask(size=SIZE), recordings, out_dir=tmp_path, **options)
    }
    assert found["none"].successes == 6 and found["none"].difference is None
    assert found["objects_moved"].successes == 6  # who looks, follows
    assert found["images_swapped"].difference.difference == -1
    opened = open_loop(Seeing(), recordings)
    text = report(opened, tuple(found.values()))
    moved = dataclasses.replace(found["images_black"], intervention="objects_moved")
    told = report(opened, (found["none"], moved))  # recordings alone do not show it
    rate = f"{moved.successes}/{moved.episodes} "
    assert [rate in line for line in told.splitlines() if line.startswith("objects_moved ")] == [True]
    assert "  objects_moved: objects shifted" in told
    assert "0/6 (−100, −100 to −61)" in text and "6/6 (0, −39 to +39)" in text  # Wilson's interval of 0 in 6
    assert text.endswith("It succeeds in 6 of 6 layouts, with another episode's pictures in 0.")
    options |= {"episodes": 2, "interventions": ["images_black"]}
    failing = PointTask(size=SIZE, faults={50: "raise"})
    found = closed_loop(Seeing(), failing, recordings, out_dir=tmp_path / "failing", **options)
    said = "cut short by the simulator, not by the policy, count as failed: none 1, images_black 1."
    assert verdict(opened, found).endswith(said)


def test_what_a_task_or_policy_of_ones_own_needs_under_an_intervention(recordings, tmp_path):
    still = types.SimpleNamespace(name="still life")
    with pytest.raises(PolicyError, match=r"^still life moves no objects; .* field `disturbance` .*, or leave"):
        next(scenes(Seeing(), still, recordings, ["images_black", "objects_moved"]))
    assert len(list(scenes(Seeing(), still, recordings, ["images_black"]))) == 2
    options = {"episodes": 1, "seed": 50, "workers": 1, "videos": 0, "progress": False, "out_dir": tmp_path}
    found = closed_loop(ExpertPolicy(), PointTask(size=SIZE), recordings, interventions=["images_black"], **options)
    assert [one.successes for one in found] == [1, 1]  # the expert's actions are no pictures


def test_demonstrations_with_rho_phases_or_neither_become_recordings():
    images = {"image_primary": np.zeros((4, 8, 8, 3), np.uint8)}
    arrays = {"images": images, "proprio": np.zeros((4, 9), np.float32), "action": np.zeros((4, 7), np.float32)}
    rho = np.array([0.1, 0.6, 0.9, 0.2], np.float32)
    given = [
        Episode(**arrays, rho=rho, change_point=rho > 0.8),
        Episode(**arrays, phase=np.array(["a", "a", "b", "b"])),
        Episode(**arrays),
    ]
    with_rho, with_phase, bare = (from_episode(one) for one in given)
    assert bare.name == "a recording" and from_episode(given[2], "d, val[2]").name == "d, val[2]"
    with pytest.raises(EpisodeError, match=r"^'d\.hdf5' is no episode; give one of open_source or read_rlds"):
        from_episode("d.hdf5")
    with pytest.raises(PolicyError, match=r"^Episode is no recording; give from_episode\(episode\) of each"):
        open_loop(Seeing(), given)
    assert with_rho.transition.tolist() == [False, True, True, False]
    assert with_phase.transition.all() and bare.transition is None


def test_equal_pictures_are_not_swapped(recordings):
    one, other = recordings[:2]
    with pytest.raises(EvaluationError, match="and its copy are the same recording; leave one of them out"):
        open_loop(Seeing(), [one, dataclasses.replace(one, name="its copy"), other])
    alike = dataclasses.replace(one, name="alike", action=one.action + np.float32(0.1))
    with pytest.raises(EvaluationError, match=r"^image_primary of a recording: the same in all other"):
        open_loop(Seeing(), [one, alike])
    with pytest.warns(UserWarning, match="and alike have the same image_primary; a swap takes another's"):
        _, found = effects(Seeing(), [one, alike, other])
    assert found["images_swapped"].change > 0.5 and donor_of(other, [one, alike], ["image_primary"]) is one
    still = [  # a camera that is frozen, in recordings of different lengths
        dataclasses.replace(each, images={"image_primary": one.images["image_primary"][[0] * len(each)]})
        for each in recordings
    ]
    with pytest.raises(EvaluationError, match="image_primary of a recording: the same in all other recordings"):
        open_loop(Seeing(), still)
    two = [  # it is judged for itself, where the policy may see it; a black one matters as little to one that does not
        dataclasses.replace(stuck, images={"image_wrist": one.images["image_primary"], **stuck.images})
        for one, stuck in zip(recordings, still)
    ]
    black = [dataclasses.replace(r, images={**r.images, "image_wrist": 0 * r.images["image_primary"]}) for r in two]
    with pytest.raises(EvaluationError, match=r"^image_primary of a recording: the same in all other"):
        open_loop(Seeing(), two)
    for shown in ({"cameras": ("wrist",)}, {"identity": {"keys": {"observation": {"image_wrist": "rgb"}}}}):
        policy = Seeing()
        vars(policy).update(shown)
        assert open_loop(policy, two).steps == sum(map(len, two))
    policy.cameras, policy.identity = ("primary",), None
    for measured in (open_loop, held_out):
        others = [dataclasses.replace(r, images={**b.images, **r.images}) for r, b in zip(recordings, black)]
        assert measured(policy, others).steps == sum(map(len, two))


def test_what_changes_nothing_of_what_is_shown_is_said_to(recordings):
    dumb = [dataclasses.replace(one, proprio=np.zeros_like(one.proprio)) for one in recordings]
    with pytest.warns(UserWarning, match="^proprio_") as told:
        open_loop(Seeing(), dumb)
    names = [text.split(" in all recordings, as ")[0] for one in told if "changes" in (text := str(one.message))]
    assert names == ["proprio_frozen changes nothing", "proprio_swapped changes nothing"]
    still = {key: np.repeat(shown[:1], len(shown), axis=0) for key, shown in recordings[1].images.items()}
    some = [recordings[0], dataclasses.replace(recordings[1], images=still), *recordings[2:]]
    with pytest.warns(UserWarning, match=f"^images_frozen changes nothing in 1 of {len(some)} recordings") as told:
        open_loop(Seeing(), some)
    assert sum("changes" in str(one.message) for one in told) == 1
    two = [dataclasses.replace(one, images={**one.images, "image_wrist": one.images["image_primary"]}) for one in some]
    with pytest.warns(UserWarning, match="^image_primary and image_wrist show the same in all recordings"):
        open_loop(Seeing(), two)
    two[1].images["image_wrist"] = recordings[1].images["image_primary"]  # of two cameras one stands still
    with pytest.warns(UserWarning, match="^images_frozen changes nothing of image_primary in 1 of ") as told:
        open_loop(Seeing(), two)
    assert sum("changes" in str(one.message) for one in told) == 1


def test_recordings_without_pictures_that_are_the_same_are_refused(recordings):
    bare = [dataclasses.replace(one, images={}) for one in recordings[:1] * 2]
    with pytest.raises(EvaluationError, match="are the same recording; leave one of them out"):
        open_loop(Seeing(), bare)


def test_a_swap_takes_no_much_shorter_recording_where_there_is_another(recordings):
    one, other = sorted(recordings[:2], key=len)
    short, shorter = (
        dataclasses.replace(
            other,
            images={key: pictures[:steps] for key, pictures in other.images.items()},
            **{field: getattr(other, field)[:steps] for field in ("proprio", "action", "transition")},
        )
        for steps in (3, 2)
    )
    seen = ["image_primary"]
    assert donor_of(one, [short, other], seen) is other
    with pytest.warns(
        UserWarning, match=f"has {len(one)} steps, the longest with other pictures, .*, 3: from there on"
    ):
        assert donor_of(one, [shorter, short], seen) is short


def test_a_swap_takes_a_recording_of_the_same_instruction_where_there_is_one(recordings):
    told = [dataclasses.replace(one, instruction=text) for one, text in zip(recordings, "abacba")]
    with pytest.warns(UserWarning) as warned:
        found = donors_of(told, ["image_primary"])
    assert [donor.instruction for donor in found] == ["a", "b", "a", found[3].instruction, "b", "a"]
    alone = "1 of 6 recordings, as a recording, have no other of their instruction to swap with, but another task's"
    assert [str(one.message) for one in warned][-1] == alone
    frozen = [dataclasses.replace(one, images=told[0].images, instruction=text) for one, text in zip(told[:2], "aa")]
    with pytest.warns(UserWarning) as warned:
        donors_of([*frozen, *(dataclasses.replace(one, instruction="b") for one in told[2:])], ["image_primary"])
    assert str(warned[-1].message).startswith("2 of 6 recordings, as a recording, have no other of their instruction")
    one, other = told[0], told[1]
    short = dataclasses.replace(
        told[2],
        images={key: pictures[:3] for key, pictures in told[2].images.items()},
        **{field: getattr(told[2], field)[:3] for field in ("proprio", "action", "transition")},
    )
    with pytest.warns(UserWarning, match="the longest of its instruction with other pictures, .*, 3: from there on"):
        assert donor_of(one, [short, other], ["image_primary"]) is short


def test_recordings_without_pictures_are_judged_by_their_state(recordings):
    class Feeling(Blind):
        def act(self, observations, episode_ids):
            return super().act({**observations, "image_primary": np.zeros((len(episode_ids), 4, 4, 3))}, episode_ids)

    opened, found = effects(Feeling(), [dataclasses.replace(recording, images={}) for recording in recordings])
    assert {*found} == {"proprio_frozen", "proprio_swapped"} and found["proprio_swapped"].change > 0
    assert "Whether it looks is unknown, as the recordings have no pictures" in report(opened)


def test_pictures_are_altered_whatever_they_are_called(recordings):
    class Elsewhere(Seeing):
        def act(self, observations, episode_ids):
            return super().act({**observations, "image_primary": observations["rgb"]}, episode_ids)

    named = [dataclasses.replace(r, images={"rgb": r.images["image_primary"]}) for r in recordings]
    assert effects(Elsewhere(), named) == effects(Seeing(), recordings)
    turned = [dataclasses.replace(r, images={"rgb": r.images["rgb"].transpose(0, 3, 1, 2)}) for r in named]

    class Turned(Elsewhere):
        def act(self, observations, episode_ids):
            return super().act({**observations, "rgb": observations["rgb"].transpose(0, 2, 3, 1)}, episode_ids)

    assert effects(Turned(), turned) == effects(Seeing(), recordings)
    shown = np.stack([named[0].images["rgb"][0]])
    black = IntervenedPolicy(Elsewhere(), "images_black", named)
    black._policy.act = lambda observations, episode_ids: observations["rgb"].max()
    black.reset([0])
    assert black.act({"rgb": shown, "proprio": np.zeros((1, 9))}, [0]) == 0 < shown.max()
    swapped = IntervenedPolicy(Elsewhere(), "images_swapped", turned)
    swapped._policy.act = lambda observations, episode_ids: observations["rgb"][0]
    swapped.reset([0])
    assert (swapped.act({"rgb": turned[0].images["rgb"][:1]}, [0]) == turned[1].images["rgb"][0]).all()


def test_a_mask_is_no_picture(recordings):
    seen, black = [], IntervenedPolicy(Seeing(), "images_black", recordings)
    black._policy.act = lambda observations, episode_ids: seen.append(observations)
    black.reset([0])
    black.act({str(channels): np.full((1, 4, 4, channels), 9, np.uint8) for channels in (1, 3, 4)}, [0])
    assert seen[0]["1"].all() and not seen[0]["3"].any() and not seen[0]["4"].any()


def test_frozen_pictures_stay_when_a_robot_fills_the_same_array_again(recordings):
    seen = []
    frozen = IntervenedPolicy(Seeing(), "images_frozen", recordings)
    frozen._policy.act = lambda observations, episode_ids: seen.append(observations["image_primary"].max())
    frozen.reset([0])
    camera = {"image_primary": np.full((1, 8, 8, 3), 9, np.uint8), "proprio": np.zeros((1, 9), np.float32)}
    for value in (9, 5):
        camera["image_primary"][:] = value
        frozen.act(camera, [0])
    assert seen == [9, 9]


def test_closed_loop_recordings_of_another_size_and_more_cameras_are_shown_as_the_policy_sees(recordings, tmp_path):
    other = [
        dataclasses.replace(
            recording,
            images={
                "image_primary": recording.images["image_primary"][:, ::2, ::2],
                "image_wrist": recording.images["image_primary"],
            },
        )
        for recording in recordings[:2]
    ]
    task = PointTask(size=SIZE)
    options = {"episodes": 1, "seed": 40, "interventions": ["images_swapped"], "workers": 1, "progress": False}
    _, swapped = closed_loop(Seeing(), task, other, out_dir=tmp_path, **options)
    assert swapped.episodes == 1
    with pytest.raises(EvaluationError, match=r"policy\.recordings"):
        closed_loop(Seeing(), task, other[::-1], out_dir=tmp_path, **options | {"episodes": 2})


@pytest.mark.parametrize(
    ("name", "shown", "said"),
    [
        (
            "images_swapped",
            {"image_front": (8, 8, 3)},
            "the recordings have no image_front, but image_primary, proprio, ",
        ),
        (
            "images_swapped",
            {"image_primary": (8, 8, 3), "top": (8, 8, 3)},
            "the recordings have no top, but image_prim",
        ),
        (
            "images_swapped",
            {"image_primary": (3, 8, 8)},
            r"image_primary is \[64, 64, 3\] in the recordings, \[3, 8, 8\] in",
        ),
        (
            "images_black",
            {"proprio": (9,)},
            "the task shows no images, but proprio; call it alike in both, or leave ima",
        ),
        (
            "proprio_frozen",
            {"state": (9,)},
            "the task shows no proprio, but state; call it alike in both, or leave prop",
        ),
        (
            "proprio_swapped",
            {"proprio": (8,)},
            r"proprio is \[9\] in the recordings, \[8\] in the task; give recordings",
        ),
    ],
)
def test_what_a_task_of_ones_own_does_not_show_is_not_said_to_be_altered(recordings, name, shown, said):
    altered = IntervenedPolicy(Seeing(), name, recordings)
    altered.reset([0])
    with pytest.raises(PolicyError, match=f"^seeing, {name}: {said}"):
        altered.act({key: np.ones((1, *shape), np.uint8) for key, shape in shown.items()}, [0])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("images_swapped", {"images": {}}, "no image_primary of three colours to swap"),
        ("images_swapped", {"images": {"image_primary": np.ones((3, 8, 8, 4), np.uint8)}}, "no image_primary of three"),
        ("proprio_swapped", {"proprio": np.zeros((3, 8), np.float32)}, "proprio is 8 wide, in assembly 9"),
    ],
)
def test_what_cannot_be_swapped_in_the_simulator_is_said_before_anything_is_played(name, change, said):
    images = {"image_primary": np.ones((3, 8, 8, 3), np.uint8)}
    whole = Recording(images, np.zeros((3, 9), np.float32), np.zeros((3, 7), np.float32), name="theirs")
    task, others = sim_task("assembly"), [whole, dataclasses.replace(whole, **change)]
    assert len(list(scenes(Seeing(), task, [whole], [name]))) == 2
    assert len(list(scenes(Seeing(), task, others, ["images_black", "objects_moved"]))) == 3
    with pytest.raises(PolicyError, match=r"intervention 'images_swaped' is unknown \(did you mean 'images_swapped'"):
        next(scenes(Seeing(), task, others, ["images_swaped"]))
    with pytest.raises(PolicyError, match=f"^theirs: {said}.*; give recordings of assembly, or leave {name} out of"):
        next(scenes(Seeing(), task, others, [name]))
