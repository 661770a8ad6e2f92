"""Demonstrations and results that the benchmark did not write are refused in one line, before anything is measured."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from experiments.cli.phase_benchmark import STAGES, main
from experiments.phase_benchmark.kept import read_stage
from experiments.phase_benchmark.motions import load_motions
from experiments.phase_benchmark.sensitivity import by_demonstrations
from experiments.phase_benchmark.study import motions_of
from gap_vla.core.errors import USER_ERROR, UserError

STEPS = 30


@pytest.fixture
def demos(tmp_path):
    """Four demonstrations as the collector writes them, without pictures."""
    path = tmp_path / "assembly.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs.update({"task": "assembly", "control_hz": 80})
        for number in range(4):
            demo, way = file.create_group(f"data/demo_{number}"), np.linspace(0, 0.3, STEPS)[:, None]
            demo.attrs.update({"num_samples": STEPS, "language_instruction": "assemble", "success": True})
            demo["actions"] = np.zeros((STEPS, 7), np.float32)
            demo["obs/robot0_eef_pos"] = np.float32(way * [1, number / 100, 0])
            demo["obs/robot0_eef_quat"] = np.tile(np.float32([0, 0, 0, 1]), (STEPS, 1))
            demo["obs/robot0_gripper_qpos"] = np.zeros((STEPS, 2), np.float32)
            demo["phase"] = ["reach"] * 15 + ["insert"] * 15
    return path


def refusal(folder, capsys):
    places = ["--demos", folder, "--out", folder / "out", "--figures", folder / "figures"]
    words = ["--tasks", "assembly", "--episodes", "4", "--stages", "rho", *places]
    assert main([str(word) for word in words]) == USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data.attrs.__delitem__("control_hz"), "control_hz is missing"),
        (lambda data: data.attrs.update(control_hz="fast"), "control_hz is 'fast'"),
        (lambda data: data.attrs.update(control_hz=0), "control_hz is 0"),
        (lambda data: data.attrs.update(control_hz=float("nan")), "control_hz is nan"),
        (lambda data: data["demo_1"].__delitem__("phase"), "episode 1: no phases of the expert"),
        (lambda data: data.attrs.update(task="threading"), "its task is 'threading', not 'assembly'"),
        (lambda data: data.__delitem__("demo_3"), "3 demonstrations, 4 are asked for"),
        (
            lambda data: data["demo_2/obs/robot0_eef_pos"].__setitem__(..., data["demo_1/obs/robot0_eef_pos"][()]),
            "episode 2: the same as episode 1, which would be tuned on and tested; remove one",
        ),
        (lambda data: data.attrs.__delitem__("task"), "its task is None, not 'assembly'"),
    ],
)
def test_demonstrations_that_are_not_the_collectors_are_refused(demos, capsys, change, named):
    with h5py.File(demos, "r+") as file:
        change(file["data"])
    line = refusal(demos.parent, capsys)
    assert line.startswith(f"error: {demos}") and named in line
    assert not (demos.parent / "out").exists()


def test_a_set_takes_no_recordings_that_were_made_otherwise(demos):
    folder = demos.parent / "noise"
    folder.mkdir()
    path = demos.rename(folder / demos.name)
    assert len(motions_of("noise", folder.parent, ["assembly"], 4)["assembly"]) == 4, "it does not say how it was made"
    own = {"collection_seed": 1009, "variant": "default", "action_noise": 0.25}
    for key, value in (("action_noise", 0.0), ("variant", "object_size"), ("collection_seed", 7)):
        with h5py.File(path, "r+") as file:
            file["data"].attrs.update({**own, key: value})
        with pytest.raises(
            UserError, match=rf"assembly\.hdf5: its {key} is .* as that of its set; collect others with"
        ):
            motions_of("noise", folder.parent, ["assembly"], 4)
    with h5py.File(path, "r+") as file:
        file["data"].attrs.update(own)
    assert len(motions_of("noise", folder.parent, ["assembly"], 4)["assembly"]) == 4


@pytest.mark.parametrize(("found", "advice"), [(5, "give --episodes 5 or less"), (1, "leave metaworld out of --sets")])
def test_experts_of_others_that_succeed_too_seldom_end_the_stage_instead_of_making_it_smaller(
    tmp_path, monkeypatch, found, advice
):
    monkeypatch.setattr("experiments.phase_benchmark.study.metaworld_motions", lambda *_: [None] * found)
    said = f"metaworld: {found} episodes of basketball-v3 succeed, 6 are asked for; {advice}"
    with pytest.raises(UserError, match=said):
        motions_of("metaworld", tmp_path, [], 6)


def test_a_number_of_demonstrations_that_are_not_there_is_in_no_table(demos, monkeypatch):
    monkeypatch.setattr("experiments.phase_benchmark.sensitivity._rho_from", lambda recordings, number: 0.5)
    recordings = load_motions(demos, "assembly")
    assert list(by_demonstrations({"assembly": recordings})) == [1, 2]
    assert list(by_demonstrations({"a": recordings * 4, "b": recordings * 3})) == [1, 2, 4]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"made_by": "gap_vla:phase_benchmark", "recordings": {"assembly": 4}, "resu', "not valid JSON"),
        (json.dumps({"made_by": "gap_vla:phase_benchmark", "recordings": {}}), "results is missing"),
        (json.dumps({"made_by": "gap_vla:phase_benchmark", "recordings": {}, "results": {"M5": 1}}), "results.M5 is 1"),
        ("[1]", "rho.json"),
        (
            json.dumps(
                {"made_by": "gap_vla:phase_benchmark", "recordings": {}, "results": {"M5": {"mean": {"f1@5": 1.5}}}}
            ),
            "f1@5 is 1.5, which no measurement gives",
        ),
    ],
)
@pytest.mark.parametrize("stage", ["rho", "finders"])
def test_damaged_results_of_a_stage_are_named(demos, capsys, text, named, stage):
    (demos.parent / "out").mkdir()
    path = demos.parent / "out" / f"{stage}.json"
    path.write_text(text)
    line = refusal(demos.parent, capsys)
    assert f"{path}" in line and named.replace("rho", stage) in line
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--stages", "rho", "--sets", "seeds"], "--sets has no effect without the stage untouched; leave it out"),
        (["--tasks", "assembly", "asembly"], "asembly"),
    ],
)
def test_options_without_effect_and_unknown_tasks_are_refused_before_work(tmp_path, capsys, monkeypatch, words, named):
    monkeypatch.setattr("gap_vla.sim.collect_demos", lambda *_, **__: pytest.fail("collecting was begun"))
    try:
        status = main(["--demos", f"{tmp_path}", "--out", f"{tmp_path / 'out'}", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == USER_ERROR and named in capsys.readouterr().err


def test_measurements_go_nowhere_among_the_demonstrations(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--demos", f"../{tmp_path.name}", "--out", "."]) == USER_ERROR
    assert "--out . is the folder of the demonstrations; name one below it" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def stored(folder, stage, results, recordings=None, **others):
    """Writes a stage's file as the benchmark does; of four recordings of assembly if nothing else is said."""
    (folder / "out").mkdir(exist_ok=True)
    path = folder / "out" / f"{stage}.json"
    content = {"recordings": recordings or {"assembly": 4}, "results": results, **others}
    path.write_text(json.dumps({"made_by": "gap_vla:phase_benchmark", **content}))
    return path


def test_what_was_measured_stays_and_is_measured_again_on_the_same_recordings_only(demos, capsys, monkeypatch):
    folder, results = demos.parent, {"uniform": {"assembly": {"value": 1}}}
    words = ["--tasks", "assembly", "--stages", "finders", "--demos", folder, "--out", folder / "out"]

    def measured(interrupted):
        def compare(tasks, keep):
            keep(results)
            if interrupted:
                raise KeyboardInterrupt

        monkeypatch.setattr("experiments.phase_benchmark.command.compare", compare)
        return main([*map(str, words), "--episodes", "4"])

    path = folder / "out" / "finders.json"
    assert measured(interrupted=True) == 130 and json.loads(path.read_text())["results"] == results
    assert not (folder / "out" / "figures").exists()
    assert measured(interrupted=False) == 0 and json.loads(path.read_text())["recordings"] == {"assembly": 4}
    measured_before = path.read_bytes()
    other = measured_before.replace(b'"assembly": 4', b'"assembly": 9')
    path.write_bytes(other)
    assert measured(interrupted=False) == USER_ERROR
    said = "finders.json: what is there was measured on {'assembly': 9}, not on {'assembly': 4}; give the same"
    assert said in capsys.readouterr().err and path.read_bytes() == other
    path.write_bytes(measured_before)
    with h5py.File(folder / "assembly.hdf5", "a") as file:
        file["data/demo_0/obs/robot0_eef_pos"][5] += 0.001
    assert measured(interrupted=False) == USER_ERROR
    assert "measured on {'assembly': 4}, not on these of them; give" in capsys.readouterr().err
    assert path.read_bytes() == measured_before


@pytest.mark.parametrize(
    ("stage", "results", "recordings"),
    [
        ("rho", {"M5": {}}, {"assembly": 9}),
        ("untouched", {"seeds": {"recordings": {"assembly": 9}, "results": {}}}, {"assembly": 4}),
    ],
)
def test_no_stage_takes_the_place_of_one_of_other_recordings(demos, capsys, monkeypatch, stage, results, recordings):
    for name in ("rho_scores", "untouched", "compare"):
        monkeypatch.setattr(f"experiments.phase_benchmark.command.{name}", lambda *_, **__: pytest.fail("measured"))
    path = stored(demos.parent, stage, results, recordings)
    before, places = path.read_bytes(), ["--demos", f"{demos.parent}", "--out", f"{demos.parent / 'out'}"]
    for stages in ([stage], *([["finders"]] if stage == "rho" else [])):  # beside one another they make one page
        assert main(["--tasks", "assembly", "--episodes", "4", "--stages", *stages, *places]) == USER_ERROR
        said = f"{path}: what is there was measured on {{'assembly': 9}}, not on {{'assembly': 4}}; "
        assert said in capsys.readouterr().err and path.read_bytes() == before


def test_stages_of_different_recordings_make_no_tables(tmp_path, capsys):
    one = {"line": {"mean": {}, "tasks": {"assembly": {}}}}
    for stage in ("finders", "rho", "sensitivity", "demonstrations", "untouched"):
        stored(tmp_path, stage, {} if stage == "untouched" else one, content={"assembly": "a"})
    shown = {"change_points": [3], "switches": [3], "rho": {"M5": [0.5, 0.5]}}
    for others, said in (
        ({"recordings": {"assembly": 8}}, "on {'assembly': 8}, not on {'assembly': 4}; remove it"),
        ({"content": {"assembly": "b"}}, "on {'assembly': 4}, not on these of them; remove it"),
    ):
        path = stored(tmp_path, "width", {"assembly": shown}, **others)
        assert main(["--out", str(tmp_path / "out"), "--stages"]) == USER_ERROR
        assert f"{path}: what is there was measured {said}" in capsys.readouterr().err
        assert not (tmp_path / "out" / "tables.md").exists()


SCORES = {"f1@5": 0.8, "precision@5": 1.0, "recall@5": 2 / 3, "timing_error": 1.0, "counts@5": "2/2/3 2/2/3"}
MEAN = {key: value for key, value in SCORES.items() if key != "counts@5"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"f1@5": 3}, "tasks.assembly.f1@5 is 3, which no measurement gives"),
        ({"f1@5": 0.99}, "tasks.assembly.f1@5 is 0.99, its counts@5 give 0.8"),
        ({"recall@5": 0.5}, "tasks.assembly.recall@5 is 0.5, its counts@5 give 0.666667"),
        ({"auprc": 7.5}, "tasks.assembly.auprc is 7.5, which no measurement gives"),
        ({"timing_error": float("nan"), "f1@10": 0.5}, "tasks.assembly.timing_error is nan, which"),
        ({"f1@2": 0.9}, "tasks.assembly.f1@2 to f1@10 must not fall"),
        ({"timing_error": 2.0}, "mean.timing_error is 1, its tasks give 2"),
        ({"value": float("inf")}, "tasks.assembly.value is inf, which"),
        ({"counts@5": "3/2/3 2/2/3"}, "tasks.assembly.counts@5 must be of 2 recordings, and none with more matched"),
        ({"counts@5": "2/2/3"}, "tasks.assembly.counts@5 must be of 2 recordings"),
        ({"counts@5": "two"}, "tasks.assembly.counts@5 must be matched/found/true"),
    ],
)
def test_scores_that_no_measurement_gives_are_refused(tmp_path, change, named):
    line = {"mean": MEAN, "tasks": {"assembly": SCORES}}
    stored(tmp_path, "finders", {"uniform": line})
    assert read_stage(tmp_path / "out", "finders")["results"] == {"uniform": line}
    path = stored(tmp_path, "finders", {"uniform": line | {"tasks": {"assembly": SCORES | change}}})
    with pytest.raises(UserError, match=re.escape(f"{path}: uniform.{named}")):
        read_stage(tmp_path / "out", "finders")
    stored(tmp_path, "finders", {"uniform": {"mean": MEAN}})
    with pytest.raises(UserError, match=re.escape(f"{path}: uniform.tasks are missing")):
        read_stage(tmp_path / "out", "finders")


@pytest.mark.parametrize(
    ("name", "recordings", "named"),
    [
        ("a | <b>x</b>", {"assembly": 4}, "a | <b>x</b> is a name that breaks the tables; remove it"),
        ("a", {"assembly": "many"}, "recordings.assembly is 'many'"),
        ("a", {"threading": 4}, "a.tasks are assembly, the recordings are of threading"),
    ],
)
def test_names_that_break_a_table_and_recordings_that_are_no_number_are_refused(tmp_path, name, recordings, named):
    stored(tmp_path, "finders", {name: {"mean": MEAN, "tasks": {"assembly": SCORES}}}, recordings)
    with pytest.raises(UserError, match=re.escape(named)):
        read_stage(tmp_path / "out", "finders")


@pytest.mark.parametrize(("stage", "said"), [("width", "no 'rho'"), ("sensitivity", "no 'penalty'")])
def test_results_that_no_picture_can_show_are_named_before_anything_is_written(
    tmp_path, capsys, monkeypatch, stage, said
):
    names = ("ours, defaults", "ours before", "uniform")
    for lines, of in (("FINDERS", names), ("LSTM_VARIANTS", ["lstm"])):
        monkeypatch.setattr(f"experiments.phase_benchmark.command.{lines}", dict.fromkeys(of))
    scores, rho = {**SCORES, "f1@2": 0.5, "f1@10": 1.0, "auprc": 0.5}, {"auprc": 0.5, "rho_mean": 0.1, "rho_width": 2.0}
    rho |= {"held_out_loss": 0.3, "calibration": 0.01}
    mean = {key: value for key, value in scores.items() if key != "counts@5"}
    line = {"mean": mean, "tasks": {"assembly": scores | {"tuning_f1@5": 0.5}}}
    stored(tmp_path, "finders", dict.fromkeys(names, line))
    stored(tmp_path, "rho", {"lstm": {"mean": rho, "tasks": {"assembly": rho}}})
    stored(tmp_path, "demonstrations", {"1": {"mean": 0.5, "tasks": {"assembly": 0.5}}})
    for empty in ("sensitivity", "untouched"):
        stored(tmp_path, empty, {})
    stored(tmp_path, "width", {"assembly": {}} if stage == "width" else {})
    assert main(["--out", str(tmp_path / "out"), "--stages"]) == USER_ERROR
    assert f"{said}; remove the stage's file that is damaged" in capsys.readouterr().err
    assert not {path.suffix for path in tmp_path.rglob("*")} & {".md", ".png"}


def test_a_stage_that_was_stopped_in_its_middle_makes_no_tables(tmp_path, capsys):
    published = Path(__file__).parents[2] / "results" / "phases"
    shutil.copytree(published, tmp_path / "out")
    kept = {stage: json.loads((published / f"{stage}.json").read_text()) for stage in ("finders", "rho", "untouched")}
    lines = kept["finders"]["results"], kept["rho"]["results"], kept["untouched"]["results"]["seeds"]["results"]
    for measured, line in zip(lines, ("uniform", "spread 4, causal", "HDBSCAN"), strict=True):
        del measured[line]
    for stage, found in kept.items():
        (tmp_path / "out" / f"{stage}.json").write_text(json.dumps(found))
    (tmp_path / "out" / "tables.md").unlink()
    assert main(["--out", str(tmp_path / "out"), "--stages"]) == 0
    assert "no tables before the stages finders, rho, untouched have run to their end" in capsys.readouterr().out
    lines[0]["mine"] = lines[0]["HDBSCAN"]
    (tmp_path / "out" / "finders.json").write_text(json.dumps(kept["finders"]))
    assert main(["--out", str(tmp_path / "out"), "--stages"]) == USER_ERROR
    assert "finders.json holds 'mine', no line of these tables; take it out" in capsys.readouterr().err
    assert not (tmp_path / "out" / "tables.md").exists()


def test_what_is_published_can_be_measured():
    for stage in STAGES:
        assert read_stage(Path(__file__).parents[2] / "results" / "phases", stage)["results"]
