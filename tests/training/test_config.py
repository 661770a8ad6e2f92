"""A configuration is typed, says what is wrong with it, and stays the JSON that recorded runs have."""

import dataclasses

import pytest

from gap_vla.cli.configured import load_config
from gap_vla.core.config import keys
from gap_vla.core.errors import ConfigError
from gap_vla.training.config import experiment
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import TrainingRun
from gap_vla.training.torch import SmallConfig

KINDS = {"octo": FinetuneConfig, "torch": SmallConfig}

WRONG = [
    ("octo", {"train": {"stps": 3}}, "train.stps.*train.steps"),
    ("octo", {"train": {"steps": 2.5}}, "train.steps"),
    ("octo", {"demos": {"camera": "frontvie"}}, "demos.camera.*frontview"),
    ("octo", {"phases": {"method": "lstmm"}}, "phases.method.*'lstm'"),
    ("octo", {"model": {"num_heads": 3}}, "model.num_heads"),
    ("octo", {"model": {"action_horizon": 2}, "eval": {"execute": 4}}, "eval.execute"),
    ("octo", {"adjustment": {"lam": 1.5}}, "adjustment.lam"),
    ("torch", {"model": {"fusion": "concatenate"}}, "model.fusion"),
]


@pytest.mark.parametrize(("backend", "changes", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_is_refused_with_its_key(backend, changes, words):
    with pytest.raises(ConfigError, match=words):
        experiment(KINDS[backend], "threading", changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "vp_gap", "adjustment": {"rho": "step"}}, "adjustment.rho"),
        ({"method": "gap_watched", "adjustment": {"mode": "fixed"}}, "adjustment.mode"),
        ({"method": "gradnorm", "model": {"head": "gmm"}}, "model.head"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_work(changes, words):
    with pytest.raises(ConfigError, match=words):
        experiment(SmallConfig, "threading", changes).check_model()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_is_the_same_after_json(kind):
    config = experiment(kind, "stack", {"data": {"normalization": "bounds"}, "train": {"steps": 7}})
    assert kind.from_dict(config.to_dict()) == config


def test_recorded_configurations_lack_what_came_later():
    values = FinetuneConfig("threading").to_dict()
    assert values["rival"] == {} and values["train"]["accumulate"] == 1 and "fields" not in values["data"]
    assert "proprio_history" not in values["model"]
    more = experiment(FinetuneConfig, "threading", {"model": {"proprio_history": 5}})
    assert more.to_dict()["model"]["proprio_history"] == 5


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_key_has_a_sentence(kind):
    assert [key.name for key in keys(kind("threading")) if not key.help] == []


def test_the_three_methods_are_called_alike_for_both_backends():
    assert dataclasses.replace(SmallConfig("threading"), method="vp_gap").method == "gap"
    assert dataclasses.replace(FinetuneConfig("threading"), method="concat").method == "vp"


def test_a_task_without_a_simulator_is_trained_on_named_data_and_not_rolled_out():
    own = experiment(FinetuneConfig, "my robot's drawer", {"demos": {"path": "there"}})
    assert own.eval.episodes and own.rollouts == 0
    with pytest.raises(ConfigError, match="my robot's drawer"):
        FinetuneConfig.from_dict({"task": "my robot's drawer"})


PROFILES = [
    *(f"{name}.py:{profile}" for name in ("assembly", "threading") for profile in ("default", "one_camera", "debug")),
    "assembly.py:gaussian_rho",
    "threading.py:paper",
    *(f"{name}.py" for name in "bin_picking disassemble hammer_drawer handover pick_place push_wall stack".split()),
    *(f"small_{name}.py:{profile}" for name in ("assembly", "threading") for profile in ("cpu", "paper", "debug")),
]


@pytest.mark.parametrize("file", PROFILES)
def test_every_profile_is_a_configuration(file):
    assert load_config(f"finetune_configs/{file}").task in file


@pytest.mark.parametrize(
    "file",
    ["assembly.py:debug", "threading.py:paper", "handover.py", "small_assembly.py:cpu", "small_threading.py:paper"],
)
def test_a_profile_can_be_dry_run(file, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # the paper's recipe is for a GPU
    config = load_config(f"finetune_configs/{file}")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path)))
    lines = TrainingRun(config).dry_run()
    assert f"demonstrations: {tmp_path}" in lines and f"mode {config.schedule.mode}" in lines
    assert not [*tmp_path.iterdir()]


def test_a_file_may_return_a_plain_dictionary(tmp_path):
    (tmp_path / "c.py").write_text("def get_config(profile=''):\n    return {'task': 'stack', 'train': {'steps': 3}}\n")
    config = load_config(f"{tmp_path}/c.py")
    assert (config.task, config.train.steps, config.train.batch_size) == ("stack", 3, 64)
