"""A linear probe finds what is there, on episodes that it has not seen, and nothing that is not."""

import h5py
import numpy as np
import pytest

from experiments.cli.look import parse
from experiments.looks.kept import kept_probe
from experiments.looks.linear_probe import FOLDS, ProbeError, probe_beyond, probe_positions, probe_switches
from experiments.looks.probe_data import collect_probe_demos, read_probe_data
from experiments.looks.probing import features_of, probe_runs
from gap_vla.core.episode import EpisodeError
from gap_vla.core.identity import digest
from gap_vla.demos.fields import resized
from gap_vla.policies import SmallModelConfig, build_policy
from gap_vla.report.runs import ReportError, Run
from gap_vla.rollouts.policy import PolicyError

EPISODES, STEPS, WIDTH = 30, 20, 24


@pytest.fixture(scope="module")
def planted():
    """Features of which some directions carry the position and the transition, linearly, beside noise."""
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    position = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0) + rng.normal(0, 0.002, (600, 3))
    transition = rng.random(600) < 0.2
    hidden = np.concatenate([position / 0.1, transition[:, None], rng.normal(size=(600, WIDTH - 4))], axis=1)
    features = hidden @ rng.normal(size=(WIDTH, WIDTH)) + rng.normal(0, 0.01, (600, WIDTH))
    return features.astype(np.float32), position, transition, episodes


def test_a_planted_position_is_found_on_held_out_episodes(planted):
    features, position, _, episodes = planted
    found = probe_positions(features, position, episodes)
    assert found["r2"] > 0.95 and found["r2_interval"][0] > 0.9
    assert found["error"] < 0.01 < found["mean_error"] and found["episodes"] == EPISODES


def test_positions_shuffled_between_episodes_are_not_found(planted):
    features, position, _, episodes = planted
    order = np.random.default_rng(1).permutation(EPISODES)
    shuffled = position.reshape(EPISODES, STEPS, 3)[order].reshape(-1, 3)
    found = probe_positions(features, shuffled, episodes)
    assert found["r2"] < 0.05 and found["error"] >= 0.95 * found["mean_error"]


def test_an_episodes_number_in_the_features_helps_nobody():
    """A probe that saw other steps of the same episode would be perfect here."""
    rng = np.random.default_rng(2)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    position = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0)
    assert probe_positions(np.eye(EPISODES)[episodes], position, episodes)["r2"] < 0.05


def test_a_feature_that_hardly_varies_in_training_does_not_spoil_another_episode(planted):
    features, position, _, episodes = planted
    dead = np.where(episodes == 3, 1.0, 1e-6 * np.arange(len(episodes)) / len(episodes))
    found = probe_positions(np.concatenate([features, dead[:, None]], axis=1), position, episodes)
    assert found["r2"] > 0.9


def test_planted_transitions_are_told_apart_and_shuffled_ones_are_not(planted):
    features, _, transition, episodes = planted
    found = probe_switches(features, transition, episodes)
    assert found["auc"] > 0.97 and found["balanced_accuracy"] > 0.9 and found["share"] == transition.mean()
    shuffled = np.random.default_rng(3).permutation(transition)
    nothing = probe_switches(features, shuffled, episodes)
    assert abs(nothing["auc"] - 0.5) < 0.1 and nothing["auc_interval"][0] < 0.5 < nothing["auc_interval"][1]


@pytest.fixture(scope="module")
def carried():
    """A hand, an object that it carries, a goal that only half of the features know, in 30 episodes."""
    rng = np.random.default_rng(5)
    episodes = np.repeat(np.arange(EPISODES), STEPS)
    hand = rng.normal(0, 0.1, (EPISODES * STEPS, 3))
    goal = np.repeat(rng.uniform(-0.1, 0.1, (EPISODES, 3)), STEPS, axis=0)
    noise = rng.normal(size=(EPISODES * STEPS, 6))
    blind = np.concatenate([hand / 0.1, hand**2 / 0.01, noise], axis=1) @ rng.normal(size=(12, 12))
    seeing = np.concatenate([hand / 0.1, goal / 0.05, noise], axis=1) @ rng.normal(size=(12, 12))
    return hand, hand + 0.02, goal, blind, seeing, episodes


def test_a_carried_object_read_off_the_hand_is_nothing_beyond_proprioception(carried):
    hand, load, _, blind, _, episodes = carried
    assert probe_positions(blind, load, episodes)["r2"] > 0.95, "the plain probe is fooled"
    load = load + np.random.default_rng(6).normal(0, 0.01, load.shape)
    found = probe_beyond(blind, load, hand, episodes)
    assert found["r2"] < 0.05 and found["error"] == pytest.approx(found["covariate_error"], rel=0.05)


def test_what_proprioception_leaves_open_is_not_asked_of_a_robot_that_stands_still():
    episodes, still = np.repeat(np.arange(10), 300), np.full((3000, 3), 57.3, np.float32)
    with pytest.raises(ProbeError, match="proprioception is the same at every step"):
        probe_beyond(np.random.default_rng(0).normal(size=(3000, 2)), np.arange(3000.0)[:, None], still, episodes)


def test_what_the_hand_does_not_tell_is_found_in_features_that_know_it(carried):
    hand, _, goal, blind, seeing, episodes = carried
    assert probe_beyond(seeing, goal + 2 * hand**2, hand, episodes)["r2"] > 0.9
    assert probe_beyond(blind, goal + 2 * hand**2, hand, episodes)["r2"] < 0.05


def test_what_is_seen_is_found_beneath_what_repeats_the_hand(carried):
    hand, _, goal, _, _, episodes = carried
    mixed = 50 * hand / 0.1 + goal / 0.05
    assert probe_positions(mixed, goal, episodes)["r2"] < 0.1 and probe_beyond(mixed, goal, hand, episodes)["r2"] > 0.9


def test_too_few_episodes_or_one_class_only_are_refused(planted):
    features, position, transition, episodes = planted
    with pytest.raises(ProbeError, match="4 episode"):
        probe_positions(features[:80], position[:80], episodes[:80])
    with pytest.raises(ProbeError, match="same class"):
        probe_switches(features, np.zeros_like(transition), episodes)
    with pytest.raises(ProbeError, match="one class is in too few episodes to hold some out"):
        probe_switches(features, transition & (episodes == 3), episodes)


def write_demos(path):
    with h5py.File(path, "w") as file:
        for number in (0, 1, 10):
            demo = file.create_group(f"data/demo_{number}")
            demo["obs/image_primary"] = np.full((12, 8, 8, 3), number, np.uint8)
            demo["obs/object"] = np.arange(72, dtype=np.float32).reshape(12, 6) + number
            demo["obs/object"].attrs["names"] = ["ring", "peg"]
            demo["obs/robot0_eef_pos"] = np.arange(36, dtype=np.float32).reshape(12, 3)
            demo["obs/robot0_eef_quat"] = np.tile([0, 0, 0, 1.0], (12, 1))
            demo["obs/robot0_gripper_qpos"] = np.zeros((12, 2))
            demo["actions"] = np.tile([0, 0, 0, 0, 0, 0, -1.0], (12, 1))
            demo["actions"][6:, 6] = 1.0
            demo.create_dataset(
                "phase", data=["reach"] * 6 + ["grasp"] * 3 + ["transport"] * 3, dtype=h5py.string_dtype()
            )


@pytest.mark.parametrize("camera", ["near", "corner2"])
def test_a_policy_is_probed_with_pictures_of_the_view_that_it_was_trained_on(tmp_path, monkeypatch, camera):
    made = []
    monkeypatch.setattr("gap_vla.sim.collect_demos", lambda *args, **options: made.append((*args, options)))
    demos = {"image_size": 80, "cameras": ("primary",), "camera": camera}
    config = {"task": "assembly", "demos": demos, "data": {"root": str(tmp_path)}}
    run, near = (Run(tmp_path, one, {}, {}, {}) for one in (config, config | {"demos": demos | {"camera": "near"}}))
    path = collect_probe_demos(run, 40)
    [(task, episodes, written, options)] = made
    assert (task, episodes, written, options["image_size"]) == ("assembly", 40, path, 80)
    assert options.get("camera", "near") == camera
    assert (collect_probe_demos(near, 40) == path) == (camera == "near")


def run_of(root, task="assembly"):
    demos = {"image_size": 80, "cameras": ("primary",)}
    return Run(root, {"task": task, "demos": demos, "data": {"root": str(root)}}, {}, {}, {})


def test_demonstrations_of_other_versions_of_the_simulators_have_another_name(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.sim.collect_demos", lambda *args, **options: None)
    first, drawn = (collect_probe_demos(run_of(tmp_path, task), 40) for task in ("assembly", "stack"))
    seen = {"episodes": 40, "image_size": 80, "cameras": ["primary"]}
    assert first.parent.name == f"assembly-{digest({'task': 'assembly', **seen})}", "what is there keeps its name"
    assert drawn.parent.name == f"stack-{digest({'task': 'stack', **seen, 'pictures_version': 3})}"
    monkeypatch.setattr("gap_vla.sim.recording.LAYOUT_VERSION", 3)
    assert collect_probe_demos(run_of(tmp_path), 40) != first


def test_only_what_was_collected_for_probes_and_not_changed_since_is_probed_again(tmp_path, monkeypatch):
    def collect(task, episodes, path, *, shown, **options):
        write_demos(path)
        shown(path)

    monkeypatch.setattr("gap_vla.sim.collect_demos", collect)
    made = collect_probe_demos(run_of(tmp_path), 40)
    other = collect_probe_demos(run_of(tmp_path), 60)
    assert collect_probe_demos(run_of(tmp_path), 40) == made != other
    whole = made.read_bytes()
    with h5py.File(made, "r+") as file:
        file["data/demo_1/obs/object"][2, 1] = 7.0
    edited = made.read_bytes()
    write_demos(tmp_path / "training.hdf5")
    for foreign in (edited, other.read_bytes(), (tmp_path / "training.hdf5").read_bytes(), b"no HDF5"):
        made.write_bytes(foreign)
        with pytest.raises(ProbeError, match=r"demos\.hdf5 is not as it was collected for probes; move it away"):
            collect_probe_demos(run_of(tmp_path), 40)
    made.write_bytes(whole)
    assert collect_probe_demos(run_of(tmp_path), 40) == made


def test_fewer_demonstrations_than_a_probe_holds_out_of_are_not_collected(capsys):
    assert parse(["run", "--probe", "--probe-episodes", f"{FOLDS}"]).probe_episodes == FOLDS
    with pytest.raises(SystemExit):
        parse(["run", "--probe", "--probe-episodes", f"{FOLDS - 1}"])
    assert "--probe-episodes" in capsys.readouterr().err


def test_demonstrations_are_read_with_objects_transitions_and_what_precedes_the_grasp(tmp_path):
    write_demos(tmp_path / "demos.hdf5")
    data = read_probe_data(tmp_path / "demos.hdf5", every=3)
    assert data.images["image_primary"][:, 0, 0, 0].tolist() == [0] * 4 + [1] * 4 + [10] * 4
    assert data.positions["peg"][1].tolist() == [21, 22, 23] and data.episodes.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.free.tolist() == [True, True, False, False] * 3
    assert data.waiting.tolist() == [True, True, True, False] * 3
    assert data.near_switch.tolist() == [False, True, True, True] * 3
    still, hand = [0, 0, 0, 1, 0, 0], np.s_[:4, [0, 1, 2, 9, 10, 11]]  # and how far each column has moved
    assert data.proprio[:4, 3:9].tolist() == 4 * [still] and not data.proprio[:, 12:].any()
    assert data.proprio[hand].tolist() == [
        [0, 1, 2, 0, 0, 0],
        [9, 10, 11, 9, 9, 9],
        *([x, x + 1, x + 2, 12, 12, 12] for x in (18, 27)),
    ]
    assert data.actions.std(0)[6] == pytest.approx(1.0, abs=0.01) and not data.actions[:, :6].any()


def test_what_lies_in_another_file_is_not_probed(tmp_path):
    write_demos(tmp_path / "demos.hdf5")
    write_demos(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        del file["data/demo_1/obs/object"]
        file["data/demo_1/obs/object"] = h5py.ExternalLink(tmp_path / "other.hdf5", "data/demo_1/obs/object")
    with pytest.raises(EpisodeError, match=r"demo_1.* 'object' is a link to another file"):
        read_probe_data(tmp_path / "demos.hdf5")


def test_demonstrations_of_another_task_than_a_run_are_refused(tmp_path):
    write_demos(tmp_path / "demos.hdf5")
    with h5py.File(tmp_path / "demos.hdf5", "a") as file:
        file["data"].attrs["task"] = "stack"
    with pytest.raises(PolicyError, match="holds demonstrations of stack, not of assembly"):
        probe_runs([Run(tmp_path, {"task": "assembly"}, {}, {}, {})], tmp_path / "demos.hdf5", tmp_path, command="look")


@pytest.mark.parametrize("kept", ["NaN", "[1.0, Infinity]", '{"r2": -Infinity}'])
def test_a_kept_probe_of_numbers_that_are_none_is_on_no_page(tmp_path, kept):
    page = tmp_path / "look.html"
    (tmp_path / "look.probe").mkdir()
    file = tmp_path / "look.probe" / "probe.json"
    file.write_text(f'{{"made_by": "gap_vla:probe", "runs": [{{"mm": {kept}}}]}}')
    with pytest.raises(
        ReportError, match=r"probe\.json: runs\.0\.mm.* is (nan|inf|-inf), no measurement; look again with"
    ):
        kept_probe(page.with_suffix(".probe") / "probe.json", [])
    file.write_text('{"runs":')
    with pytest.raises(ReportError, match=r"probe\.json: not valid JSON .*; look again with --probe$"):
        kept_probe(file, [])


def test_pictures_of_another_size_are_shown_to_a_policy_in_its_own():
    policy = build_policy(SmallModelConfig(), "vision", (32, 32, 3), 9, 7).eval()
    large = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    found = features_of(policy, {"image_primary": large})
    assert np.array_equal(found, features_of(policy, {"image_primary": resized(large, (32, 32))}))
