"""The page about runs also shows what probes and takeovers found, each with the command that made it."""

import html
import json
import re

import numpy as np
import pytest
from finished_runs import make_run

from experiments.looks.page import sections
from gap_vla.core.errors import UserError
from gap_vla.report.page import write_report
from gap_vla.report.runs import Run

PROBE = {
    "command": "python make_probe",
    "episodes": 9,
    "steps": 90,
    "labels": ["concat, seed 0", "gap, seed 0", "untrained"],
    "cka": np.eye(3).tolist(),
    "branch_losses": {
        "gap, seed 0": {heard: {"all": 0.1234, "transition": 0.2} for heard in ("both", "vision", "proprio")}
    },
    "probes": {
        label: {
            "positions": {
                "ring": {"before grasp": {"r2": 0.5, "r2_interval": [0.4, 0.6], "error": 0.01, "mean_error": 0.03}}
            },
            "beyond_proprio": {"peg": {"before transport": {"r2": 0.25}}} if "gap" in label else {},
            "actions": {"all steps": {"r2": 0.125}},
            "transition": {"auc": 0.7, "auc_interval": [0.6, 0.8], "balanced_accuracy": 0.65},
        }
        for label in ("concat, seed 0", "gap, seed 0", "untrained")
    },
}


def add_takeover(path, method):
    takeover = path / "takeover" / "phase-default-vision"
    takeover.mkdir(parents=True)
    window = {"successes": 2, "difference": 0.25, "difference_interval": [0.0, 0.5]}
    windows = [{**window, "window": name} for name in ("never", "start of grasp", "always")]
    found = {"main": method, "other": "vision", "episodes": 4, "windows": windows}
    (takeover / "takeover.json").write_text(json.dumps(found))
    (takeover / "settings.json").write_text(json.dumps({"variant": "default", "command": "python make_takeover"}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = [make_run(folder, method, seed, [1, 0, 0, 1]) for seed in (0, 1) for method in ("concat", "gap")]
    for path in found:
        add_takeover(path, path.name.partition("-")[0])
    return found


def test_probes_and_takeovers_stand_on_the_page_with_their_commands(runs, tmp_path):
    more = sections([Run.read(path) for path in runs], PROBE)
    page = write_report(runs, tmp_path / "report.html", command="python make_page", more=more, videos=1).read_text()
    cells = re.findall(r"<td>([^<]*)</td>", page)
    for command in ("python make_page", "python make_probe", "python make_takeover"):
        assert f"<pre>{command}</pre>" in page
    assert page.count("data:video/mp4;base64,") == 4 and page.count("data:image/svg+xml;base64,") >= 8
    assert cells[cells.index("0.1234") - 2 : cells.index("0.1234")] == ["gap, seed 0", "all"]
    assert "near change points" in cells, "kept probes of earlier versions are told in today's words"
    asked = cells.index("position of peg, before transport, beyond proprioception")
    assert cells[asked + 1 : asked + 4] == ["", "R² 0.25", ""]
    assert "expert's action, all steps, beyond proprioception" in html.unescape("|".join(cells))
    assert "vision takes over from gap" in page
    for key in ("probe", "silenced", "similarity", "takeover"):
        assert f'<a href="#{key}">' in page and f'id="{key}"' in page


def test_nothing_stands_there_before_anybody_looked(tmp_path):
    run = Run.read(make_run(tmp_path, "gap", 0, [1, 1, 0, 1]))
    assert not any(body for _, _, body in sections([run], None))


@pytest.mark.parametrize("text", ['{"main"', "{}", "[]"])
def test_a_takeover_that_cannot_be_read_is_named(text, tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 0, 0, 1])
    add_takeover(path, "gap")
    (path / "takeover" / "phase-default-vision" / "takeover.json").write_text(text)
    with pytest.raises(UserError, match=r"phase-default-vision: a takeover that cannot be read: .*; move it away"):
        sections([Run.read(path)], None)


@pytest.mark.parametrize("asked", ["--probe", "--takeover"])
def test_runs_that_no_page_can_show_together_are_refused_before_any_work(runs, tmp_path, capsys, monkeypatch, asked):
    from experiments.cli.look import main

    for name in ("_probe", "take_over_runs"):
        monkeypatch.setattr(f"experiments.looks.command.{name}", lambda *_, **__: pytest.fail("work was begun"))
    again = make_run(tmp_path / "again", "concat", 0, [0, 0, 0, 1])
    options = ["--takeover", str(runs[1])] if asked == "--takeover" else ["--probe"]
    assert main([str(runs[0]), str(again), *options, "--out", str(tmp_path / "page.html")]) == 2
    assert "are both concat, seed 0; give one of them" in capsys.readouterr().err


def test_a_run_does_not_take_itself_over(runs, tmp_path, capsys):
    from experiments.cli.look import main

    assert main([str(runs[0]), "--takeover", str(runs[0]), "--out", str(tmp_path / "page.html")]) == 2
    assert "is the only run; name another one" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
