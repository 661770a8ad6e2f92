"""Demonstrations and results that the benchmark did not write are refused in one line, before anything is measured."""

import json

import h5py
import numpy as np
import pytest

from experiments.cli.phase_benchmark import main
from gap_vla.core.errors import USER_ERROR

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
        (
            ["--stages", "rho", "--finders", "uniform"],
            "--finders has no effect without the stage finders",
        ),
        (["--stages", "rho", "--sets", "seeds"], "--sets has no effect without the stage untouched; leave it out"),
        (["--tasks", "assembly", "asembly"], "asembly"),
    ],
)
def test_options_without_effect_and_unknown_tasks_are_refused_before_work(tmp_path, capsys, monkeypatch, words, named):
    monkeypatch.setattr("gap_vla.sim.collect_demos", lambda *_, **__: pytest.fail("collecting was begun"))
    try:
        status = main(["--demos", str(tmp_path), "--out", str(tmp_path / "out"), *words])
    except SystemExit as ended:
        status = ended.code
    assert status == USER_ERROR and named in capsys.readouterr().err


def test_results_of_other_recordings_stay_until_all_of_the_new_ones_are_there(demos, capsys, monkeypatch):
    folder, results = demos.parent, {"uniform": {"assembly": {"value": 1}}}
    words = [
        "--tasks",
        "assembly",
        "--episodes",
        "4",
        "--stages",
        "finders",
        "--demos",
        folder,
        "--out",
        folder / "out",
    ]

    def measured(interrupted, finder="uniform"):
        def compare(tasks, finders, keep):
            keep({finder: results["uniform"]})
            if interrupted:
                raise KeyboardInterrupt

        monkeypatch.setattr("experiments.phase_benchmark.command.compare", compare)
        return main([*map(str, words), *(["--finders", finder] if finder != "uniform" else [])])

    path = folder / "out" / "finders.json"
    assert measured(interrupted=True) == 130 and json.loads(path.read_text())["results"] == results
    assert not (folder / "out" / "figures").exists()
    other = json.loads(path.read_text()) | {"recordings": {"assembly": 9}}
    path.write_text(json.dumps(other))
    assert measured(interrupted=True) == 130 and json.loads(path.read_text()) == other
    assert measured(interrupted=False, finder="speed threshold") == USER_ERROR
    assert "the other finders were measured on {'assembly': 9}, not on {'assembly': 4}" in capsys.readouterr().err
    assert json.loads(path.read_text()) == other
    assert measured(interrupted=False) == 0 and json.loads(path.read_text())["recordings"] == {"assembly": 4}
    assert measured(interrupted=False, finder="speed threshold") == 0
    assert {*json.loads(path.read_text())["results"]} == {"uniform", "speed threshold"}
    measured_before = path.read_bytes()
    with h5py.File(folder / "assembly.hdf5", "a") as file:
        file["data/demo_0/obs/robot0_eef_pos"][5] += 0.001
    assert measured(interrupted=False, finder="speed threshold") == USER_ERROR
    assert "measured on {'assembly': 4}, not on these of them; give" in capsys.readouterr().err
    assert path.read_bytes() == measured_before
