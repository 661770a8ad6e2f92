"""annotate(): every method, its identity, its files, its errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from gap_vla.core.columns import POSE, Columns
from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError, EpisodeError
from gap_vla.phases import METHODS, annotate, load_annotator
from gap_vla.phases.annotation import checked_options
from gap_vla.phases.measures import WeakRho, calibration, describe, told_weak
from gap_vla.phases.pages import view_of

DATA = Path(__file__).parents[1] / "data" / "phases"


def demo(seed, turns=4, leg=20, arms=1):
    """An arm that walks around right-angled corners and closes its fingers halfway; `phase` is the leg."""
    rng = np.random.default_rng(seed)
    steps = turns * leg
    blocks = []
    for _ in range(arms):
        corners = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # right angles, turned at random
        heading = np.repeat(corners[np.arange(turns) % 3], leg, axis=0)
        path = np.concatenate([np.zeros((1, 3)), np.cumsum(0.01 * heading, axis=0)[:-1]])
        fingers = np.where(np.arange(steps) <= steps // 2, 0.04, 0.0)[:, None] * [[1, -1]]
        blocks += [path, np.tile([1.0, 0, 0, 0], (steps, 1)), fingers]
    return Episode(
        images={},
        proprio=np.concatenate(blocks, axis=1).astype(np.float32),
        action=np.zeros((steps, 7 * arms), np.float32),
        phase=np.repeat([f"leg {k}" for k in range(turns)], leg),
        metadata={"file_path": "walk.hdf5", "episode_id": seed},
        columns=POSE.times(arms),
    )


def cut(episode, steps):
    return episode.replace(proprio=episode.proprio[:steps], action=episode.action[:steps], phase=None)


def still(steps):
    rows = np.tile(demo(0).proprio[:1], (steps, 1))
    return demo(0).replace(proprio=rows, action=np.zeros((steps, 7), np.float32), phase=None)


DEMOS = [demo(seed) for seed in range(6)]
FAST = {"lstm": {"updates": 3, "check": False}}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_labels_every_step_and_is_saved_and_loaded(method, tmp_path):
    annotation = annotate(DEMOS, method=method, **FAST.get(method, {}))
    for episode, rho, points in zip(DEMOS, annotation.rho, annotation.change_points):
        assert rho.dtype == np.float32 and rho.shape == (len(episode),)
        assert rho.min() >= 0 and rho.max() <= 1
        assert points.dtype == np.int64 and (np.diff(points) > 0).all()
    again = load_annotator(annotation.annotator.save(tmp_path)).annotate(DEMOS[:2])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(again.rho, annotation.rho))
    assert all(a.tolist() == b.tolist() for a, b in zip(again.change_points, annotation.change_points))
    assert again.identity == annotation.identity


@pytest.mark.parametrize("method", ["lstm", "gaussian", "hdbscan"])
def test_annotators_of_version_0_2_are_loaded_and_give_the_labels_that_they_gave(method):
    kept = np.load(DATA / "labels_0.2.npz")
    rows = [kept[f"proprio_{i}"] for i in range(4)]
    episodes = [Episode({}, row, np.zeros((len(row), 7), np.float32), columns=POSE) for row in rows]
    old = load_annotator(DATA / f"annotator_0.2_{method}")
    assert old.identity["hash"] == json.loads((DATA / f"annotator_0.2_{method}/annotator.json").read_text())["hash"]
    labels = old.annotate(episodes)
    points = np.concatenate([p + 1000 * i for i, p in enumerate(labels.change_points)])
    assert points.tolist() == kept[f"points_{method}"].tolist()
    np.testing.assert_allclose(np.concatenate(labels.rho), kept[f"rho_{method}"], atol=3e-6)


def test_an_annotator_of_another_version_is_refused(tmp_path):
    path = annotate(DEMOS, method="gaussian").annotator.save(tmp_path) / "annotator.json"
    path.write_text(path.read_text().replace('"version": "labels 8"', '"version": "labels 99"'))
    with pytest.raises(ConfigError, match="another version"):
        load_annotator(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_annotator(tmp_path / "nowhere")


@pytest.mark.parametrize("method", ["change_points", "cotpc", "column"])
def test_corners_are_found(method):
    for points in annotate(DEMOS, method=method).change_points:
        assert points.tolist() == [20, 40, 60]


def test_what_each_method_makes_of_the_same_change_points():
    one = DEMOS[:1]
    hard = annotate(one, method="change_points").rho[0]
    assert np.flatnonzero(hard).tolist() == [0, 20, 40, 60]
    smooth = annotate(one, method="gaussian", sigma=2.0).rho[0]
    np.testing.assert_allclose(smooth[[20, 22, 30]], np.exp([0, -0.5, -12.5]), rtol=1e-6)
    for given in (one, iter(one), np.array(one, object)):
        assert set(annotate(given, method="fixed", value=0.3).rho[0].tolist()) == {np.float32(0.3)}
    assert annotate(one, method="column", rho="hard").rho[0].tolist() == hard.tolist()
    three = annotate(one, method="change_points", n_change_points=2).change_points[0]
    assert len(three) == 2 and {*three.tolist()} < {20, 40, 60}


def test_equal_bits_for_one_process_and_for_several():
    alone, together = (annotate(DEMOS, seed=4, updates=4, check=False, workers=n) for n in (1, 2))
    assert alone.identity == together.identity and alone.report == together.report
    assert all(a.tobytes() == b.tobytes() for a, b in zip(alone.rho, together.rho))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(alone.change_points, together.change_points))
    assert annotate(DEMOS, seed=5, updates=4, check=False).identity["hash"] != alone.identity["hash"]


def test_identity_and_report_are_json_and_say_what_was_resolved():
    annotation = annotate(DEMOS, updates=2, check=False)
    identity = json.loads(json.dumps(annotation.identity))
    options = identity["options"]
    assert (options["penalty"], options["min_size"], options["smooth"]) == (1.0, 6, 1)
    assert options["dead_band"][0] == pytest.approx(0.0005, rel=0.01)
    assert identity["estimator"]["lookahead"] == 2
    report = json.loads(json.dumps(annotation.report))
    assert report["episodes"] == 6 and report["change_points_per_episode"] == 3
    assert report["estimator"]["held_out_loss"] is None, "of six recordings none is held out"


def test_the_report_says_how_much_rho_there_is_to_act_on():
    narrow = annotate(DEMOS, method="change_points").report
    assert narrow["rho_mean"] == pytest.approx(4 / 80) and narrow["rho_width"] == 1 and narrow["rho_marks"] == 1
    assert "0.050 on average" in describe(narrow)[1] and "little to act on" in describe(narrow)[2]
    wide = annotate(DEMOS, method="gaussian", sigma=4.0).report
    assert wide["rho_width"] == pytest.approx((3 * 9 + 5) / 4)  # 1.18 · 4 steps on either side; one side of the first
    assert len(describe(wide)) == 2


def test_a_rho_that_marks_few_of_its_change_points_is_an_error_that_says_what_to_try():
    how = {"updates": 20, "hidden": 4, "distance_weight": 5.0, "greatest_weight": None}
    with pytest.raises(WeakRho, match="gaussian") as raised:
        annotate(DEMOS, **how)
    weak = annotate(DEMOS, check=False, **how).report
    assert weak["rho_marks"] < 0.5 and str(raised.value) in weak["notes"]
    assert told_weak([np.zeros(9)], [np.array([4])]) and not told_weak([np.zeros(9)], [np.zeros(0, np.int64)])


def test_a_calibrated_rho_has_no_error_and_an_overconfident_one_has():
    rng = np.random.default_rng(0)
    rho = rng.random(20_000)
    happened = (rng.random(20_000) < rho).astype(float)
    assert calibration(rho, happened, np.ones(20_000))["error"] < 0.02
    assert calibration(np.sqrt(rho), happened, np.ones(20_000))["error"] > 0.1


def test_what_is_fitted_sees_only_the_episodes_named():
    wild = [e.replace(proprio=np.float32([9, 9, 9, 1, 1, 1, 1, 9, 9]) * e.proprio) for e in DEMOS[4:]]
    calm, other = (annotate(DEMOS[:4] + held, updates=4, check=False, fit=range(4)) for held in (DEMOS[4:], wild))
    assert calm.identity == other.identity == annotate(DEMOS[:4], updates=4, check=False).identity
    assert len(calm.rho) == 6 and calm.report["fitted_episodes"] == 4
    with pytest.raises(EpisodeError):
        annotate(DEMOS, fit=[])


def test_apply_fills_rho_and_change_point_of_the_episodes_that_were_annotated():
    annotation = annotate(DEMOS, method="gaussian")
    labelled = annotation.apply(one for one in DEMOS)
    assert np.flatnonzero(labelled[0].change_point).tolist() == [20, 40, 60]
    assert labelled[0].validate().rho is annotation.rho[0]
    for others in (DEMOS[:2], [DEMOS[i] for i in (0, 2, 1, 3, 4, 5)]):
        with pytest.raises(EpisodeError, match="order"):
            annotation.apply(others)


def test_two_arms_are_segmented_together_or_each():
    two = [demo(seed, arms=2) for seed in range(2)]
    for arms in ("joint", "each"):
        annotation = annotate(two, method="change_points", arms=arms)
        assert [points.tolist() for points in annotation.change_points] == [[20, 40, 60]] * 2


@pytest.mark.parametrize(
    ("text", "of"),
    [
        ("position", [0, 1, 2]),  # no gripper, no rotation
        ("position quat_wxyz", range(7)),
        ("joints:2 position quat_wxyz gripper", [7, 8, 0, 1, 2, 3, 4, 5, 6, 7]),
        ("position quat_wxyz gripper | position gripper_01:2", [*range(8), 0, 1, 2, 7, 8]),  # unequal hands
    ],
)
@pytest.mark.parametrize("method", ["lstm", "gaussian"])
def test_states_of_any_described_columns_get_rho(method, text, of, tmp_path):
    columns = Columns.parse(text)
    episodes = [e.replace(proprio=np.ascontiguousarray(e.proprio[:, [*of]]), columns=columns) for e in DEMOS]
    annotation = annotate(episodes, method=method, **FAST.get(method, {}))
    assert all(points.tolist() == [20, 40, 60] for points in annotation.change_points)
    annotator = load_annotator(annotation.annotator.save(tmp_path))
    assert annotator.annotate(episodes[:1]).rho[0].tobytes() == annotation.rho[0].tobytes()
    assert view_of(episodes[0]).signals[0].name == "displacement (mm)"
    with pytest.raises(EpisodeError, match="episode 0"):
        annotator.annotate(demo(0, arms=3) for _ in range(1))


def test_a_state_without_position_and_joints_is_shown_but_not_annotated():
    others = DEMOS[0].replace(columns=Columns.parse("other:8 gripper"))
    with pytest.raises(EpisodeError, match="other:8"):
        annotate([others], method="gaussian")
    assert view_of(others).signals[0].name == "fingers (mm)"
    assert view_of(DEMOS[0].replace(columns=Columns.parse("joints:9"))).signals[0].name == "joints (°)"


@pytest.mark.parametrize("method", ["lstm", "gaussian", "hdbscan", "cotpc"])
@pytest.mark.parametrize("steps", [0, 2])
def test_tiny_and_stationary_episodes_have_labels(method, steps):
    annotation = annotate([cut(demo(0), steps), still(90)], method=method, **FAST.get(method, {}))
    assert [len(rho) for rho in annotation.rho] == [steps, 90]
    assert annotation.change_points[1].tolist() == []
    assert np.isfinite(annotation.rho[1]).all()


@pytest.mark.parametrize("method", ["lstm", "gaussian", "hdbscan", "cotpc"])
def test_a_data_set_in_which_nothing_moves_has_no_change_points(method):
    annotation = annotate([still(60), still(60)], method=method, **FAST.get(method, {}))
    assert [points.tolist() for points in annotation.change_points] == [[], []]
    assert np.isfinite(annotation.rho).all()


def test_one_episode_alone_is_labelled_and_an_empty_one_alone_is_refused_by_the_lstm():
    annotation = annotate(DEMOS[:1], updates=3, check=False)
    assert annotation.change_points[0].tolist() == [20, 40, 60]
    assert annotation.report["estimator"]["held_out_loss"] is None
    with pytest.raises(EpisodeError):
        annotate([cut(DEMOS[0], 0)])


def test_states_that_are_logged_several_times_have_the_labels_of_the_states():
    for times, pause in ((3, 40), ([2, 3] * 40, 0)):  # 10 Hz in a log of 30 Hz; with a pause; in one of 25 Hz
        counts = np.broadcast_to(times, 80) + pause * (np.arange(80) == 79)
        repeated = [
            e.replace(proprio=np.repeat(e.proprio, counts, 0), action=np.repeat(e.action, counts, 0), phase=None)
            for e in DEMOS
        ]
        first = np.cumsum(counts) - counts
        for points in annotate(repeated, method="change_points").change_points:
            assert set(first[[20, 40, 60]]) <= set(points) and len(points) <= 3 + (pause > 0)
    plain, often = (annotate(e, updates=3, check=False) for e in (DEMOS, [cut_less(e) for e in DEMOS]))
    for once, twice in zip(plain.rho, often.rho):
        assert twice[::2].tobytes() == twice[1::2].tobytes() == once.tobytes()


def cut_less(e):
    return e.replace(proprio=np.repeat(e.proprio, 2, 0), action=np.repeat(e.action, 2, 0), phase=None)


def test_turns_within_a_slow_phase_are_found_beside_fast_ones():
    """Ten times slower than the rest is still motion: an insertion must not pass for a pause."""
    speed = np.repeat([0.02, 0.02, 0.002, 0.002], 30)[:, None]
    heading = np.repeat([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]], 30, axis=0)
    proprio = np.zeros((120, 9), np.float32)
    proprio[1:, :3], proprio[:, 3] = np.cumsum(speed * heading, axis=0)[:-1], 1
    slow = Episode(images={}, proprio=proprio, action=np.zeros((120, 7), np.float32), columns=POSE)
    assert annotate([slow], method="change_points").change_points[0].tolist() == [30, 60, 90]


def broken(where, value):
    proprio = DEMOS[2].proprio.copy()
    proprio[where] = value
    return [DEMOS[0], DEMOS[2].replace(proprio=proprio)]


@pytest.mark.parametrize(
    ("episodes", "method", "options", "error", "named"),
    [
        (broken((7, 1), np.nan), "gaussian", {}, EpisodeError, r"walk\.hdf5, episode 2: position is nan at step 7"),
        (broken((3, 3), 2), "gaussian", {}, EpisodeError, r"episode 2: quaternion of arm 0 .* at step 3"),
        ([], "gaussian", {}, EpisodeError, "episode"),
        ([DEMOS[0].replace(phase=None)], "column", {}, EpisodeError, "episode 0: .*phase"),
        (DEMOS, "best", {}, ConfigError, "best"),
        (DEMOS, "gaussian", {"penalti": 3}, ConfigError, "penalty"),
        (DEMOS, "gaussian", {"smooth": 4}, ConfigError, "smooth"),
        (DEMOS, "gaussian", {"n_change_points": 40}, ConfigError, "episode 0: 40 change points"),
    ],
)
def test_errors_name_the_episode_or_the_option(episodes, method, options, error, named):
    with pytest.raises(error, match=named):
        annotate(episodes, method=method, **options)


def test_options_without_effect_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"^updates, value:"):
        checked_options("gaussian", {"updates": 3, "value": 0.5}, 0)
