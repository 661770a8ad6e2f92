"""Stages are found again by what made them, never mixed, and looked at before any work."""

import dataclasses
import os

import pytest

from gap_vla.core.errors import ConfigError
from gap_vla.sim.specs import task_spec
from gap_vla.training import data
from gap_vla.training.config import experiment
from gap_vla.training.data import Stages
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import TrainingRun
from gap_vla.training.torch import SmallConfig

CONFIG = FinetuneConfig("threading")


def changed(kind=FinetuneConfig, task="threading", **sections):
    return experiment(kind, task, sections)


def test_changed_demonstrations_get_other_demos_datasets_and_stores():
    before, after = Stages(CONFIG), Stages(changed(demos={"action_noise": 0.2}))
    assert before.demos != after.demos and before.rlds != after.rlds and before.store != after.store


def test_other_phases_reuse_the_demonstrations_but_not_the_dataset():
    before, after = Stages(CONFIG), Stages(changed(phases={"seed": 1}))
    assert before.demos == after.demos and before.rlds != after.rlds


def test_method_seed_and_model_share_the_data_but_not_the_run():
    other = dataclasses.replace(CONFIG, method="vp")
    assert Stages(CONFIG).store == Stages(other).store
    assert TrainingRun(CONFIG).directory.path != TrainingRun(other).directory.path


@pytest.mark.parametrize("version", ["labels", "pictures", "training"])
def test_other_code_that_makes_the_data_gets_another_run(monkeypatch, version):
    before, run = Stages(CONFIG), TrainingRun(CONFIG).directory.path
    if version == "labels":
        monkeypatch.setattr(data, "LABELS_VERSION", 99)
    elif version == "pictures":
        monkeypatch.setattr(type(task_spec("threading")), "pictures_version", 99)
    else:
        monkeypatch.setitem(data.TRAINING_VERSION, "octo", 99)
    assert (Stages(CONFIG).rlds != before.rlds) == (version != "training")
    assert TrainingRun(CONFIG).directory.path != run


def test_a_replaced_demonstration_file_and_other_names_of_fields_are_other_datasets(tmp_path):
    path = tmp_path / "demos.hdf5"
    path.write_bytes(b"one")
    first = Stages(changed(demos={"path": str(path)}))
    os.utime(path, (1, 1))
    second = Stages(changed(demos={"path": str(path)}))
    third = Stages(changed(demos={"path": str(path)}, data={"fields": {"layout": "libero"}}))
    assert first.demos == path and len({one.rlds for one in (first, second, third)}) == 3


@pytest.mark.parametrize("sections", [{"demos": {"path": "nowhere"}}, {"data": {"rlds": "nowhere"}}])
def test_missing_inputs_are_named(sections, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TrainingRun(changed(runs=str(tmp_path / "runs"), **sections)).to_the_end()
    assert not (tmp_path / "runs").exists()


def test_two_arms_have_eighteen_numbers_of_state_and_fourteen_of_action():
    shapes = Stages(FinetuneConfig("handover")).shapes()
    assert (shapes["proprio"], shapes["action"]) == ((18,), (14,))


SHAPES = {"proprio": (9,), "action": (7,), "image_primary": (64, 64, 3), "rho": (), "change_point": ()}
LACKING = [
    ({}, {}, ""),
    ({"rho": None}, {"method": "vp_gap"}, "rho"),
    ({"rho": None}, {}, ""),
    ({}, {"kind": SmallConfig, "method": "msbot"}, "phase"),
    ({}, {"demos": {"cameras": ["primary", "wrist"]}}, "image_wrist.*image_primary"),
    ({"image_primary": (128, 128, 3)}, {}, "image_primary.*128"),
    ({"image_primary": (128, 128, 3)}, {"demos": {"image_size": 128}}, ""),
    ({"image_primary": (128, 128, 3)}, {"eval": {"episodes": 0}}, ""),
    ({"action": (14,)}, {}, "action"),
    ({"proprio": (6,), "action": (6,)}, {"eval": {"episodes": 0}}, ""),
    ({"proprio": (6,), "action": (6,)}, {"task": "bowl", "demos": {"path": "README.md"}}, ""),
]


@pytest.mark.parametrize(("fields", "sections", "words"), LACKING, ids=lambda value: str(value)[:40])
def test_what_the_data_lack_is_said_before_work(fields, sections, words):
    shapes = {name: shape for name, shape in {**SHAPES, **fields}.items() if shape is not None}
    stages = Stages(changed(**sections))
    if not words:
        return stages.require_fitting(shapes)
    with pytest.raises(ConfigError, match=words):
        stages.require_fitting(shapes)
