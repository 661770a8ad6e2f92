"""A run is never overwritten, goes on only with what it is trained with, and is named after that."""

import dataclasses
import json
from pathlib import Path

import pytest

from gap_vla.cli.configured import load_config
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.training.config import experiment
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import TrainingRun
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.torch import SmallConfig

CONFIG = {"task": "threading", "runs": "runs", "train": {"steps": 3, "log_every": 1}, "eval": {"seed": 5, "workers": 1}}


def changed(key, value):
    config = json.loads(json.dumps(CONFIG))
    section, _, name = key.partition(".")
    config[section][name] = value
    return config


def finished_run(path):
    run = RunDirectory.claim(path, CONFIG, resume=False)
    run.rollouts.mkdir()
    run.summary.write_text('{"rollouts": "of seed 5"}')
    return run


def test_an_existing_run_is_not_overwritten(tmp_path):
    run = finished_run(tmp_path / "run")
    before = run.config.read_text()
    with pytest.raises(UserError, match="--resume"):
        RunDirectory.claim(run.path, CONFIG, resume=False)
    assert run.config.read_text() == before and run.complete


def test_what_is_trained_may_not_change(tmp_path):
    run = finished_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.steps: 3 then, 4 now"):
        RunDirectory.claim(run.path, changed("train.steps", 4), resume=True)
    assert run.read_config() == CONFIG


def test_the_data_and_the_codes_version_may_not_change(tmp_path):
    data = {"phases": {"labels_version": 3}, "cameras": ("primary",)}
    for _ in range(2):
        RunDirectory.claim(tmp_path / "run", CONFIG, resume=True, dataset=data)
    with pytest.raises(ConfigError, match=r"labels_version: 3 then, 4 now"):
        RunDirectory.claim(tmp_path / "run", CONFIG, resume=True, dataset={**data, "phases": {"labels_version": 4}})


def test_logging_and_workers_may_change(tmp_path):
    run = finished_run(tmp_path / "run")
    for config in (changed("train.log_every", 2), changed("eval.workers", 4)):
        assert RunDirectory.claim(run.path, config, resume=True).complete_with(config)
        assert run.read_config() == config


def test_another_evaluation_sets_the_earlier_rollouts_aside(tmp_path):
    run = finished_run(tmp_path / "run")
    for number, seed in enumerate((6, 7), 1):
        RunDirectory.claim(run.path, changed("eval.seed", seed), resume=True)
        assert not run.complete and not run.rollouts.exists()
        assert (run.path / f"rollouts-earlier-{number}").is_dir()
        assert (run.path / f"summary-earlier-{number}.json").exists()
        run.rollouts.mkdir()
        run.summary.write_text("{}")


def test_a_configuration_with_the_notes_of_0_2_is_read(tmp_path):
    run = finished_run(tmp_path / "run")
    run.config.write_text(json.dumps({**CONFIG, "earlier": [{"train.log_every": 2}]}))
    assert run.read_config() == CONFIG


@pytest.mark.parametrize("kind", [FinetuneConfig, SmallConfig])
def test_a_run_is_named_after_what_is_trained_alone(kind):
    def name(**sections):
        return TrainingRun(experiment(kind, "threading", sections)).directory.path.name

    assert name() == name(eval={"seed": 9, "episodes": 3}) == name(train={"log_every": 7, "save_every": 9})
    assert name() != name(train={"steps": 9})


NAMES = {  # of GAP
    "finetune_configs/threading.py:default": "threading/vp_gap-seed0-fb790865",
    "finetune_configs/threading.py:debug": "threading/vp_gap-seed0-02adad78",
    "finetune_configs/small_assembly.py:debug": "assembly/small-gap-seed0-d9f4c7ad",
}


@pytest.mark.parametrize("file", NAMES)
def test_runs_keep_their_names_from_one_version_to_the_next(file):
    config = dataclasses.replace(load_config(file), method="vp_gap")
    assert TrainingRun(config).directory.path == Path("runs") / NAMES[file]
