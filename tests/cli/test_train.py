"""One command from somebody's data to a trained policy."""

import json

import numpy as np
import pytest

from gap_vla.cli import main
from gap_vla.rlds.convert import write_rlds
from gap_vla.training.run_directory import read_metrics
from tests.helpers.demonstrations import make_episode, write_robomimic

TINY = ["--config.train.steps=4", "--config.train.log_every=1", "--config.eval.episodes=20"]


def trained(tmp_path, *words):
    """Calls the command twice: the second one finds the finished run."""
    call = ["train-small", "--config", "finetune_configs/small_assembly.py:debug", "--config.task=tidy up", *TINY]
    call += [f"--config.runs={tmp_path}/runs", f"--config.data.root={tmp_path}/data", *words]
    assert main(call) == 0 and main([*call, "--resume"]) == 0
    (summary,) = tmp_path.glob("runs/tidy up/*/summary.json")
    losses = [row["train/loss"] for row in read_metrics(summary.with_name("metrics.jsonl")) if "train/loss" in row]
    assert len(losses) == 4 and np.isfinite(losses).all() and (summary.parent / "checkpoint").is_dir()
    assert (summary.parent / "report.html").exists()
    return json.loads(summary.read_text())


@pytest.fixture
def episodes():
    return [make_episode(index, size=32) for index in range(4)]


def test_demonstrations_of_a_robot_without_a_simulator_are_converted_and_trained_on(tmp_path, episodes, capsys):
    path = write_robomimic(tmp_path / "demos.hdf5", episodes)
    summary = trained(tmp_path, f"--config.demos.path={path}", "--config.phases.method=gaussian")
    said = capsys.readouterr().out
    assert "image_primary <- " in said and "not rolled out" in said and "is complete" in said
    assert summary["variants"] == {} and "val/action_mse" in summary["validation"]


def test_an_rlds_dataset_without_a_split_val_is_trained_on_by_named_fields(tmp_path, episodes):
    dataset = write_rlds(episodes, tmp_path / "rlds", "dots", val_fraction=0, identity={"made": "up"})
    words = [f"--config.data.rlds={dataset}", "--config.data.val_fraction=0.3"]
    words += ["--config.data.fields.state=observation/proprio"]
    words += ["--config.data.fields.images.image_primary=observation/image_primary"]
    summary = trained(tmp_path, *words)
    assert "val/action_mse" in summary["validation"] and summary["dataset"]["path"] == str(dataset)


def test_a_dry_run_says_what_is_read_and_makes_nothing(tmp_path, episodes, capsys):
    path = write_robomimic(tmp_path / "demos.hdf5", episodes)
    call = ["train-small", "--config", "finetune_configs/small_assembly.py:debug", "--config.task=tidy up"]
    call += [f"--config.runs={tmp_path}/runs", f"--config.data.root={tmp_path}/data", f"--config.demos.path={path}"]
    assert main([*call, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "image_primary <- " in said and "RLDS dataset:" in said and "policy: " in said
    assert [*tmp_path.iterdir()] == [path]
