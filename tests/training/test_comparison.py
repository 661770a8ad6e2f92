"""A comparison skips what is finished, records what fails, and ends with one table."""

import dataclasses
import json

import pytest

from gap_vla.cli.training import compare as compare_command
from gap_vla.core.errors import ConfigError
from gap_vla.training import comparison
from gap_vla.training.comparison import compare_methods, comparison_directory
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import TrainingRun
from gap_vla.training.run_directory import RunDirectory
from tests.helpers.evaluations import evaluation_of

CONFIG = FinetuneConfig("threading")
FILE = "finetune_configs/threading.py:debug"


def finish(run, config, wins):
    """Writes what a training leaves in its directory in the end; the outcomes come again and again."""
    outcomes = {100_000 + number: wins[number % len(wins)] for number in range(config.eval.episodes)}
    measured = {"val/action_mse": 0.5, "val/mean_action_mse": 1.0}
    run.metrics.write_text(json.dumps({"step": config.train.steps, **measured}) + "\n")
    evaluation = {**evaluation_of(outcomes), "task": {"variant": "default"}, "videos": []}
    about = {"task": config.task, "method": config.method, "seed": config.train.seed, "steps": config.train.steps}
    run.summary.write_text(json.dumps({**about, "seconds": {}, "validation": measured, "rollouts": evaluation}))


@pytest.fixture
def cells(monkeypatch):
    """Runs cells without training; returns the list of those that were run."""
    ran = []

    def stand_in(config):
        ran.append((config.method, config.train.seed))
        if ran[-1] == ("v", 1):
            return "the loss is nan"
        run = RunDirectory.claim(TrainingRun(config).directory.path, config.to_dict(), resume=True)
        wins = {"v": [0, 0, 1, 0], "vp": [0, 1, 1, 0], "vp_gap": [1, 1, 1, 0]}[config.method]
        finish(run, config, wins)
        return ""

    monkeypatch.setattr(comparison, "_run_in_a_process", stand_in)
    monkeypatch.setattr(TrainingRun, "validate", lambda run: {})
    return ran


def test_every_cell_runs_once_failures_are_named_and_the_others_go_on(cells, tmp_path):
    config = dataclasses.replace(CONFIG, runs=str(tmp_path))
    text, failed, _ = compare_methods(config, ["v", "vp", "vp_gap"], [0, 1])
    assert len(cells) == 6 and "VP+GAP" in text and failed == ["v, seed 1"]
    out = comparison_directory(config)
    assert len(json.loads((out / "table.json").read_text())["methods"]) == 3
    assert "v, seed 1" in (out / "table.md").read_text() and (out / "table.png").exists()
    compare_methods(config, ["v", "vp", "vp_gap"], [0, 1])
    assert cells[6:] == [("v", 1)]


def test_the_command_ends_with_one_and_names_the_runs_that_failed(cells, tmp_path, capsys):
    words = [f"--config={FILE}", f"--config.runs={tmp_path}", "--config.eval.episodes=4", "--methods=v", "--seeds=0,1"]
    assert compare_command(words) == 1
    assert "failed: v, seed 1" in capsys.readouterr().out


def test_what_cannot_be_compared_stops_before_anything_runs(cells, tmp_path):
    config = dataclasses.replace(CONFIG, runs=str(tmp_path))
    with pytest.raises(ValueError, match="vp_gap"):
        compare_methods(config, ["vp", "mask"], [0])
    blind = dataclasses.replace(config, eval=dataclasses.replace(config.eval, episodes=0))
    with pytest.raises(ConfigError, match="rollouts"):
        compare_methods(blind, ["vp"], [0])
    assert not cells


def test_a_cell_in_a_process_of_its_own_says_what_went_wrong(tmp_path):
    config = dataclasses.replace(CONFIG, runs=str(tmp_path), data=dataclasses.replace(CONFIG.data, rlds="nowhere"))
    assert "nowhere" in comparison._run_in_a_process(config)
