"""annotate(): every method, its identity, its files, its errors."""

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
from functools import partial

import jaxtyping
import numpy as np
import pytest
import torch

from gap_vla.core.episode import OPENING_UNIT, Episode, EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.phases import METHODS, Annotation, MotionError, annotate, load_annotator
from gap_vla.phases.annotation import checked_options
from gap_vla.phases.measures import describe
from gap_vla.phases.methods import OPTIONS, USED, Options
from gap_vla.phases.pages import report_page, view_of


def demo(seed, turns=4, leg=20, arms=1):
    """An arm that walks around right-angled corners; a leg begins by closing the fingers; `phase` is the leg."""
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
    )


DEMOS = [demo(seed) for seed in range(6)]
FAST = {"lstm": {"epochs": 3}}


def test_a_program_that_lets_numpy_raise_gets_the_same_labels():
    usual = annotate(DEMOS, method="gaussian", sigma=0.5)  # 0 in float32, far from a change point
    with np.errstate(all="raise"):
        strict = annotate(DEMOS, method="gaussian", sigma=0.5)
        again = strict.annotator.annotate(one for one in DEMOS)
    for one in (strict, again):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one.rho, usual.rho, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_labels_every_step_and_is_saved_and_loaded(method, tmp_path):
    annotation = annotate(DEMOS, method=method, **FAST.get(method, {}))
    for episode, rho, points in zip(DEMOS, annotation.rho, annotation.change_points):
        assert rho.dtype == np.float32 and rho.shape == (len(episode),)
        assert rho.min() >= 0 and rho.max() <= 1
        assert points.dtype == np.int64 and (np.diff(points) > 0).all()
    again = load_annotator(annotation.save(tmp_path)).annotate(DEMOS[:2])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(again.rho, annotation.rho))
    assert all(a.tolist() == b.tolist() for a, b in zip(again.change_points, annotation.change_points))
    assert again.identity == annotation.identity
    assert not list(tmp_path.glob("*.pkl")) and not list(tmp_path.glob(".*tmp"))
    stored = Annotation.load(tmp_path)
    assert stored.report == json.loads(json.dumps(annotation.report))
    assert [r.tobytes() for r in stored.rho] == [r.tobytes() for r in annotation.rho]


@pytest.mark.parametrize("method", ["change_points", "cotpc", "column"])
def test_corners_are_found(method):
    annotation = annotate(DEMOS, method=method)
    for points in annotation.change_points:
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


def test_equal_bits_for_one_process_and_for_several(monkeypatch, capsys):
    monkeypatch.setattr("gap_vla.phases.annotator.PATIENCE", 1e-9)
    alone, together = (annotate(DEMOS, seed=4, epochs=2, workers=n) for n in (1, 2))
    assert alone.identity == together.identity and alone.report == together.report
    assert all(a.tobytes() == b.tobytes() for a, b in zip(alone.rho, together.rho))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(alone.change_points, together.change_points))
    assert "change points: 0/6 episodes" in capsys.readouterr().err, "before the first of several processes is done"
    assert annotate(DEMOS, seed=5, epochs=2).identity["hash"] != alone.identity["hash"]


def test_a_worker_that_may_start_no_processes_is_not_made_to(monkeypatch):
    monkeypatch.setattr("gap_vla.phases.annotator.PAIRS_WORTH_PROCESSES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    with monkeypatch.context() as one_core:  # of 64, as a cluster's job has
        one_core.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
        one_core.setattr("gap_vla.phases.annotator.worker_pool", lambda _: pytest.fail("more processes than cores"))
        assert len(annotate(DEMOS[:2], method="fixed").rho) == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert len(annotate(DEMOS[:2], method="fixed").rho) == 2
    with pytest.raises(UserError, match="use ProcessPoolExecutor"):
        annotate(DEMOS[:2], method="fixed", workers=2)


@contextlib.contextmanager
def double_precision():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def products_in_bfloat16():
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_what_a_program_has_set_in_torch_changes_no_label():
    plain = annotate(DEMOS[:1], epochs=1).identity
    kinds = torch.autocast("cpu"), torch.device("meta"), double_precision(), products_in_bfloat16()
    for setting in (torch.no_grad(), torch.inference_mode(), *kinds):
        with setting:
            assert annotate(DEMOS[:1], epochs=1).identity == plain
            assert torch.is_grad_enabled() == (setting in kinds)


def test_numbers_of_numpy_are_those_of_python(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    numbers = dict(epochs=1, hidden=4, min_size=5, penalty=1.5, dead_band=(0.5, 0.25, 0.5))
    arrays = {k: np.float32(v) if k in ("penalty", "dead_band") else np.int64(v) for k, v in numbers.items()}
    ours, theirs = annotate(DEMOS[:2], seed=3, **numbers), annotate(DEMOS[:2], seed=np.int64(3), **arrays)
    assert theirs.identity == ours.identity
    assert load_annotator(theirs.save(tmp_path)).identity == ours.identity


@pytest.mark.slow
def test_another_process_with_other_threads_gives_the_same_bits(tmp_path):
    """A fresh interpreter, spawned workers, other numbers of threads: the same ρ, the same hash."""
    here = annotate(DEMOS, seed=4, epochs=2)
    np.save(tmp_path / "proprio.npy", np.stack([e.proprio for e in DEMOS]))
    code = (
        "import sys, hashlib, numpy as np\n"
        "from gap_vla.core.episode import Episode\n"
        "from gap_vla.phases import annotate\n"
        "if __name__ == '__main__':\n"
        "    demos = [Episode({}, p, np.zeros((len(p), 7), np.float32)) for p in np.load(sys.argv[1])]\n"
        "    a = annotate(demos, seed=4, epochs=2, workers=2)\n"
        "    print(a.identity['hash'], hashlib.sha256(b''.join(r.tobytes() for r in a.rho)).hexdigest())\n"
    )
    (tmp_path / "label.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "PYTHONHASHSEED": "7"}
    command = [sys.executable, str(tmp_path / "label.py"), str(tmp_path / "proprio.npy")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert said == [here.identity["hash"], hashlib.sha256(b"".join(r.tobytes() for r in here.rho)).hexdigest()]


def test_identity_and_report_are_json_and_say_what_was_resolved():
    annotation = annotate(DEMOS, epochs=1)
    identity = json.loads(json.dumps(annotation.identity))
    assert (
        identity["options"]["penalty"] == 1.0
        and identity["options"]["min_size"] == 6
        and identity["options"]["smooth"] == 1
    )
    assert identity["options"]["dead_band"][0] == pytest.approx(0.0005, rel=0.01)
    assert identity["estimator"]["lookahead"] == 2
    report = json.loads(json.dumps(annotation.report))
    assert report["episodes"] == 6 and report["change_points_per_episode"] == 3
    assert report["estimator"]["held_out_loss"] > 0


def test_the_report_says_how_much_rho_there_is_to_act_on():
    narrow = annotate(DEMOS, method="change_points").report
    assert narrow["rho_mean"] == pytest.approx(4 / 80) and narrow["rho_width"] == 1
    assert describe(narrow)[1] == "ρ: 0.050 on average, above 0.5 for 1.0 steps per change point or beginning"
    assert "GAP has little to act on; method `gaussian`, or the option `spread`" in describe(narrow)[2]
    for options, advice in (({"rho": "fixed", "value": 0.05}, "value"), ({"sigma": 0.5}, "sigma")):
        [note] = annotate(DEMOS, method="cotpc", **options).report["notes"]
        assert f"little to act on; a larger `{advice}` gives a wider ρ" in note
    wide = annotate(DEMOS, method="gaussian", sigma=4.0).report
    assert wide["rho_width"] == pytest.approx((3 * 9 + 5) / 4)  # 1.18 · 4 steps on either side; one side of the first
    assert len(describe(wide)) == 2
    empty = DEMOS[0].replace(proprio=DEMOS[0].proprio[:0], action=DEMOS[0].action[:0], phase=None)
    assert describe(annotate([empty], method="gaussian").report) == ["1 episodes, 0 steps, 0 change points"]


def test_positions_that_no_arm_reaches_are_asked_about():
    far = [e.replace(proprio=e.proprio * np.float32([1000] * 3 + [1] * 6)) for e in DEMOS[:2]]
    assert not [line for line in describe(annotate(DEMOS[:2], method="gaussian").report) if "metres" in line]
    annotation = annotate(far, method="gaussian")
    for labels in (annotation, annotation.annotator.annotate(far[:1])):
        (line,) = [line for line in describe(labels.report) if "metres" in line]
        assert line.startswith("note: a position ") and "m away from the origin; are these metres? ρ weighs" in line


def test_poor_calibration_and_missing_held_out_recordings_are_said_in_plain_words():
    report = annotate(DEMOS, epochs=1).report
    poor = {"held_out_recordings": 5, "held_out_calibration": {"error": 0.163}}
    (line,) = [line for line in describe({**report, "estimator": poor}) if "calibration error" in line]
    assert line.startswith("note: on the 5 recordings held out, ρ misses the share of change points by 0.16 on average")
    fine = {"held_out_recordings": 5, "held_out_calibration": {"error": 0.02}}
    assert not [line for line in describe({**report, "estimator": fine}) if "held out" in line]
    alone = annotate(DEMOS[:1], epochs=1).report
    assert alone["notes"][-1].startswith("no recording was held out")
    twice = annotate(DEMOS[:1] * 2, epochs=1, hidden=4).report
    assert twice["notes"][-1].startswith("1 of the 1 recordings held out are copies of recordings that the LSTM has")
    page = report_page("x", alone, {}, [])
    assert "Note: no recording was held out" in page


def test_an_annotator_of_before_is_loaded_and_a_foreign_one_is_refused_in_a_line(tmp_path, monkeypatch):
    """Before, `epochs` was a number and the report did not say which epoch was kept."""
    annotation = annotate(DEMOS, epochs=2)
    annotation.save(tmp_path)
    path = tmp_path / "estimator.json"
    record = json.loads(path.read_text())
    assert record["settings"]["epochs"] == 2
    del record["report"]["kept_epoch"], record["record_hash"]
    path.write_text(json.dumps(record))
    again = load_annotator(tmp_path).annotate(DEMOS)
    assert again.rho[0].tobytes() == annotation.rho[0].tobytes() and describe(again.report)
    record["settings"]["layers"] = 3
    path.write_text(json.dumps(record))
    with pytest.raises(MotionError, match=r"estimator\.json: this version knows no setting layers; make it again"):
        load_annotator(tmp_path)
    (tmp_path / "estimator.safetensors").write_bytes(b"short")
    with pytest.raises(MotionError, match=r"estimator is damaged: .*; make it again"):
        load_annotator(tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(MotionError, match="permission denied; ask for the right to read it"):
        load_annotator(tmp_path)


def test_what_is_fitted_sees_only_the_episodes_named():
    wild = [e.replace(proprio=np.float32([9, 9, 9, 1, 1, 1, 1, 9, 9]) * e.proprio) for e in DEMOS[4:]]
    calm, other = (annotate(DEMOS[:4] + held, epochs=2, fit=range(4)) for held in (DEMOS[4:], wild))
    assert calm.identity == other.identity == annotate(DEMOS[:4], epochs=2).identity
    assert len(calm.rho) == 6 and calm.report["fitted_episodes"] == 4
    with pytest.raises(MotionError, match="no episode to fit"):
        annotate(DEMOS, fit=[])


def test_apply_fills_rho_and_change_point(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    annotation = annotate(DEMOS, method="gaussian")
    labelled = annotation.apply(DEMOS)
    assert np.flatnonzero(labelled[0].change_point).tolist() == [20, 40, 60]
    assert labelled[0].validate().rho is annotation.rho[0]
    assert len(annotation.apply(one for one in DEMOS)) == len(DEMOS)
    with pytest.raises(MotionError, match="differ in number, order or proprioception"):
        annotation.apply(DEMOS[:2])
    with pytest.raises(MotionError, match="differ in number, order or proprioception"):
        annotation.apply([DEMOS[i] for i in (0, 2, 1, 3, 4, 5)])
    assert annotation.labels(np.int64(-1))["rho"] is annotation.rho[-1]
    for index in (len(DEMOS), -len(DEMOS) - 1, 1.5, None):
        with pytest.raises(MotionError, match="the index of an episode is"):
            annotation.labels(index)


def test_two_arms_are_segmented_together_or_each():
    two = [demo(seed, arms=2) for seed in range(2)]
    for arms in ("joint", "each"):
        annotation = annotate(two, method="change_points", arms=arms)
        assert [points.tolist() for points in annotation.change_points] == [[20, 40, 60]] * 2


@pytest.mark.parametrize("method", ["lstm", "gaussian", "hdbscan", "cotpc"])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_tiny_and_stationary_episodes_have_labels(method, steps):
    tiny = demo(0)
    tiny = tiny.replace(proprio=tiny.proprio[:steps], action=tiny.action[:steps], phase=None)
    still = tiny.replace(proprio=np.tile(demo(0).proprio[:1], (90, 1)), action=np.zeros((90, 7), np.float32))
    annotation = annotate([tiny, still], method=method, **FAST.get(method, {}))
    assert [len(rho) for rho in annotation.rho] == [steps, 90]
    assert annotation.change_points[1].tolist() == []
    assert np.isfinite(annotation.rho[1]).all()


@pytest.mark.parametrize("method", ["lstm", "gaussian", "hdbscan", "cotpc"])
def test_a_data_set_in_which_nothing_moves_has_no_change_points(method):
    still = demo(0)
    still = still.replace(proprio=np.tile(still.proprio[:1], (60, 1)), action=np.zeros((60, 7), np.float32), phase=None)
    annotation = annotate([still, still], method=method, **FAST.get(method, {}))
    assert [points.tolist() for points in annotation.change_points] == [[], []]
    assert np.isfinite(annotation.rho).all()


def test_one_episode_alone_is_labelled_and_an_empty_one_alone_is_refused_by_the_lstm():
    annotation = annotate(DEMOS[:1], epochs=3)
    assert annotation.change_points[0].tolist() == [20, 40, 60]
    assert annotation.report["estimator"]["held_out_loss"] is None
    empty = DEMOS[0].replace(proprio=DEMOS[0].proprio[:0], action=DEMOS[0].action[:0], phase=None)
    with pytest.raises(MotionError, match="nothing to learn ρ from"):
        annotate([empty])


@pytest.mark.parametrize("times", [2, 3])
def test_duplicated_time_stamps_move_no_change_point_by_more_than_two_samples(times):
    repeated = [
        e.replace(proprio=np.repeat(e.proprio, times, axis=0), action=np.repeat(e.action, times, axis=0), phase=None)
        for e in DEMOS
    ]
    for points in annotate(repeated, method="change_points").change_points:
        np.testing.assert_allclose(points, times * np.array([20, 40, 60]), atol=2)


def test_errors_name_the_episode_the_option_and_the_method():
    broken = DEMOS[2].proprio.copy()
    broken[7, 1] = np.nan
    with pytest.raises(MotionError, match=r"walk\.hdf5, episode 2: position is nan at step 7"):
        annotate([DEMOS[0], DEMOS[2].replace(proprio=broken)])
    stretched = DEMOS[1].proprio.copy()
    stretched[3, 3] = 2
    with pytest.raises(MotionError, match=r"episode 1: quaternion of arm 0 has length 2 at step 3"):
        annotate([DEMOS[1].replace(proprio=stretched)])
    rows = ((None, "proprio is None"), (np.zeros(40), r"proprio has shape \(40,\)"), ([0], r"proprio is \[0\]"))
    for proprio, found in rows:
        with pytest.raises(EpisodeError, match=rf"walk\.hdf5, episode 1: {found}; it must be an array \(T, width\)"):
            annotate([DEMOS[0], DEMOS[1].replace(proprio=proprio)], method="gaussian")
    with pytest.raises(EpisodeError, match=r"episode 2: action has \d+ steps, proprio has \d+; cut them"):
        annotate([DEMOS[0], DEMOS[2].replace(proprio=DEMOS[2].proprio[:-1])], method="gaussian")
    with pytest.raises(EpisodeError, match="image_primary has 3 steps, proprio has"):
        annotate([DEMOS[0].replace(images={"image_primary": np.zeros((3, 8, 8, 3), np.uint8)})], method="gaussian")
    with pytest.raises(EpisodeError, match="proprio is 0 wide"):
        annotate([DEMOS[0].replace(proprio=np.zeros((len(DEMOS[0]), 0)))], method="gaussian")
    with pytest.raises(MotionError, match="unknown method 'best'; known are lstm, fixed"):
        annotate(DEMOS, method="best")
    with pytest.raises(MotionError, match="unknown option penalti"):
        annotate(DEMOS, penalti=3)
    with pytest.raises(MotionError, match="no episode"):
        annotate([])
    with pytest.raises(MotionError, match="needs the phase of every step"):
        annotate([DEMOS[0].replace(phase=None)], method="column")


def test_what_is_no_episode_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    later = annotate(DEMOS[:2], method="gaussian").annotator.annotate
    for label in (partial(annotate, method="gaussian"), later, annotate(DEMOS[:1], method="gaussian").apply):
        for given, named in (("demos.hdf5", "'demos.hdf5'"), (None, "None"), ([DEMOS[0].proprio], "ndarray")):
            with pytest.raises(
                MotionError, match=rf"^{named} is no Episode; give those of gap_vla\.demos\.open_source"
            ):
                label(given)


def with_gap(phase, nothing):
    phase = np.array(phase, object)
    phase[20:25] = nothing
    return phase


@pytest.mark.parametrize(
    "phase",
    [
        with_gap(["a"] * 80, np.nan),
        with_gap(["a"] * 80, None),
        with_gap(["a"] * 80, np.nan).astype(str),
        with_gap(["a"] * 80, " ").astype(str),
        with_gap(["a"] * 80, "None").astype(str),
        with_gap([b"a"] * 80, b"NaN"),
        with_gap([b"a"] * 80, b""),
        with_gap(np.zeros(80), np.inf).astype(float),
        with_gap(["2026-11-21"] * 80, "NaT").astype("datetime64[s]"),
        np.ma.array(np.zeros(80, int), mask=np.isin(np.arange(80), range(20, 25))),
    ],
)
def test_a_step_that_a_person_left_without_a_phase_is_named(phase):
    with pytest.raises(MotionError, match=r"phase is .* at step 20; give each step a name"):
        annotate([DEMOS[0].replace(phase=phase)], method="column")


def test_what_was_not_measured_is_no_motion():
    lost = np.ma.masked_greater(DEMOS[0].proprio, 0.03)
    with pytest.raises(MotionError, match=r"walk\.hdf5, episode 0: quaternion is masked in places, not numbers"):
        annotate([DEMOS[0].replace(proprio=lost)], method="gaussian")


def test_episodes_without_a_name_are_named_by_their_number():
    unnamed = [episode.replace(metadata={}, proprio=episode.proprio.copy()) for episode in DEMOS]
    unnamed[1].proprio[11, 4] = np.inf
    with pytest.raises(MotionError, match="memory, episode 1: quaternion is inf at step 11"):
        annotate(unnamed, method="gaussian")


@pytest.mark.parametrize(
    ("method", "options", "idle"),
    [
        ("gaussian", {"epochs": 3, "value": 0.5}, "epochs, value"),
        ("lstm", {"sigma": 3.0}, "sigma"),
        ("change_points", {"sigma": 3.0}, "sigma"),
        ("fixed", {"rho": "hard"}, "rho"),
        ("column", {"penalty": 1.0, "rho": "hard"}, "penalty"),
        ("cotpc", {"cluster_size": 4}, "cluster_size"),
        ("hdbscan", {"threshold": 0.1}, "threshold"),
        ("gaussian", {"seed": 3}, "seed"),
        ("hdbscan", {"rho": "gaussian", "seed": 3}, "seed"),
        ("hdbscan", {"rho": "hard", "sigma": 2.0}, "sigma"),
    ],
)
def test_options_without_effect_are_refused_by_name(method, options, idle):
    seed = options.pop("seed", 0)
    deciding = f" and rho '{options['rho']}'" if "rho" in options and idle != "rho" else ""
    with pytest.raises(MotionError, match=f"^{idle}: no effect with method '{method}'{deciding}; leave it out"):
        checked_options(method, options, seed)


@pytest.mark.parametrize("method", METHODS)
def test_every_option_has_an_effect_on_some_method(method):
    points, rho = METHODS[method]
    for option in (*USED.get(points, ()), *USED.get(rho, ())):
        checked_options(method, {option: Options().record()[option]})
    assert set(OPTIONS) == {"rho", *itertools.chain(*USED.values())}


def test_a_tampered_annotator_is_refused(tmp_path):
    annotate(DEMOS, method="gaussian").save(tmp_path)
    path = tmp_path / "annotator.json"
    path.write_text(path.read_text().replace('"sigma": 4.0', '"sigma": 5.0'))
    with pytest.raises(MotionError, match="does not fit"):
        load_annotator(tmp_path)


@pytest.mark.parametrize("change", [{"opening_unit": "1"}, {"columns": {}}, {"extra": ["x"]}])
def test_what_an_annotator_was_fitted_on_is_as_it_was_written(tmp_path, change):
    path = annotate(DEMOS, method="gaussian").save(tmp_path) / "annotator.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | change))
    with pytest.raises(MotionError, match=r"annotator\.json: columns, opening_unit.* are not as they were written"):
        load_annotator(tmp_path)
    del record["beside_hash"]  # as those before it
    path.write_text(json.dumps(record | change))
    assert load_annotator(tmp_path).identity["hash"] == record["hash"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(method="\0"), "method is .*; it must be one of lstm, "),
        (lambda record: record["options"].update(rho="\0"), "rho is one of .*; make it again"),
        (lambda record: record["options"].update(sigma=-1.0), "sigma .*; make it again"),
    ],
)
def test_an_annotator_that_names_what_is_unknown_is_called_by_its_file(tmp_path, change, message):
    path = annotate(DEMOS, method="gaussian").save(tmp_path) / "annotator.json"
    change(record := json.loads(path.read_text()))
    path.write_text(json.dumps(record))
    with pytest.raises(MotionError, match=rf"annotator\.json: {message}"):
        load_annotator(tmp_path)


def test_turns_within_a_slow_phase_are_found_beside_fast_ones():
    """Ten times slower than the rest is still motion: an insertion must not pass for a pause."""
    speed = np.repeat([0.02, 0.02, 0.002, 0.002], 30)[:, None]
    heading = np.repeat([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]], 30, axis=0)
    proprio = np.zeros((120, 9), np.float32)
    proprio[1:, :3], proprio[:, 3] = np.cumsum(speed * heading, axis=0)[:-1], 1
    slow = Episode(images={}, proprio=proprio, action=np.zeros((120, 7), np.float32))
    assert annotate([slow], method="change_points").change_points[0].tolist() == [30, 60, 90]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": float("nan")}, "penalty is nan; it must be a number from 0"),
        ({"stroke": -1}, "stroke is -1; it must be a number from 0"),
        ({"dead_band": (1e-3,)}, "dead_band is 3 or 4 numbers"),
        ({"extra_weight": 2.0}, "extra_weight: no effect without extra columns"),
        ({"n_change_points": 2, "stroke": 0.1}, "stroke: no effect with method 'gaussian' and n_change_points;"),
        ({"n_change_points": 2, "penalty": 1.0}, "penalty: no effect"),
        ({"arms": "each"}, 'arms="each": no effect with one arm'),
    ],
)
def test_options_that_are_no_sensible_numbers_are_refused_by_name(options, message):
    with pytest.raises(MotionError, match=message):
        annotate(DEMOS[:1], method="gaussian", **options)


def test_an_annotator_knows_in_what_openings_were_measured_that_it_was_fitted_on(tmp_path):
    walk = np.zeros((40, 9), np.float32)
    walk[:, 3], walk[:, 0] = 1, np.abs(np.arange(40) - 20) * 0.01
    metres = Episode({}, walk, np.zeros((40, 7), np.float32))
    number = metres.replace(metadata={OPENING_UNIT: "1"})
    for fitted, other in ((metres, number), (number, metres)):
        annotator = load_annotator(annotate([fitted], method="gaussian").save(tmp_path / "annotator"))
        assert len(annotator.annotate([fitted]).rho[0]) == 40
        with pytest.raises(MotionError, match=r"gripper openings are .*, those that the annotator was fitted on"):
            annotator.annotate([other])
        with pytest.raises(MotionError, match="episode 1: gripper openings are"):
            annotate([fitted, other], method="gaussian")
    assert annotate([metres.replace(metadata={OPENING_UNIT: b"m"})], method="gaussian")  # as h5py gives texts
    assert view_of(metres.replace(metadata={OPENING_UNIT: b"m"})).signals[-1].name == "fingers (mm)"
    for odd in ("rad", None):
        with pytest.raises(MotionError, match="opening_unit of the metadata is"):
            annotate([metres.replace(metadata={OPENING_UNIT: odd})], method="gaussian")


def test_what_is_shown_of_positions_in_mm_asks_whether_they_are_metres():
    walk = np.zeros((40, 9), np.float32)
    walk[:, 3], walk[:, 0] = 1, np.abs(np.arange(40) - 20) * 0.01
    far = walk * [1000, 1000, 1000, *[1] * 6]
    shown = [view_of(Episode({}, rows.astype(np.float32), np.zeros((40, 7), np.float32))) for rows in (walk, far)]
    assert [view.facts for view in shown] == [(), ("Note: a position 200 m away from the origin; are these metres?",)]


def test_a_dead_band_of_three_numbers_says_nothing_of_extra_columns():
    extra = [np.zeros((len(one), 1)) for one in DEMOS[:1]]
    with pytest.raises(MotionError, match="dead_band has 3 numbers; with extra columns give a fourth"):
        annotate(DEMOS[:1], method="gaussian", extra=extra, dead_band=(1e-3, 1e-2, 1e-3))
    assert annotate(DEMOS[:1], method="gaussian", extra=extra, dead_band=(1e-3, 1e-2, 1e-3, 0))


def test_a_dead_band_of_numpys_numbers_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    band = [np.float32(0.001), np.float64(0.01), 0]
    annotation = annotate(DEMOS[:1], method="gaussian", dead_band=band)
    assert load_annotator(annotation.save(tmp_path)).options.dead_band[:3] == tuple(map(float, band))


class Shuffled(list):
    """As a column of pandas whose rows were shuffled: in brackets stand names of rows."""

    def __getitem__(self, name):
        return list.__getitem__(self, [3, 1, 2, 0].index(name))


def test_extra_columns_are_those_of_the_episodes_in_order(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    extra = [np.sin(np.arange(80.0) / (i + 2))[:, None] for i in range(4)]
    plain = annotate(DEMOS[:4], method="gaussian", extra=extra).change_points
    for given in (Shuffled(extra), iter(extra)):
        found = annotate(DEMOS[:4], method="gaussian", extra=given).change_points
        assert [points.tolist() for points in found] == [points.tolist() for points in plain]
    with pytest.raises(MotionError, match="extra is a dictionary; give a list"):
        annotate(DEMOS[:4], method="gaussian", extra=dict(enumerate(extra)))


def test_a_fourth_number_of_a_dead_band_is_of_extra_columns():
    with pytest.raises(MotionError, match="dead_band has a fourth number: no effect without extra columns; leave it"):
        annotate(DEMOS[:1], method="gaussian", dead_band=(1e-3, 1e-2, 1e-3, 5))
    own = annotate(DEMOS[:1], method="gaussian").identity["options"]
    for last in (0, own["dead_band"][3]):
        assert annotate(DEMOS[:1], method="gaussian", dead_band=(*own["dead_band"][:3], last)).rho
