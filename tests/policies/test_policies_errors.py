"""Data and parts that do not fit are refused in words before training."""

import json
from pathlib import Path

import h5py
import pytest
from toy_store import place_store, toy_config, write_store

from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.windows import rho_of
from gap_vla.rollouts import PolicyError
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import Run, finetune
from gap_vla.training.stages import stages_of


def test_a_dataset_without_rho_is_refused_for_gap_and_trains_concat(tmp_path):
    gap, concat = toy_config(tmp_path, "gap"), toy_config(tmp_path, "concat")
    place_store(gap, rho=False)
    with pytest.raises(ConfigError, match="no steps/rho, which method gap needs"):
        finetune(gap)
    assert finetune(concat)["steps"] == 12


def test_labels_of_other_episodes_are_refused(tmp_path):
    config = toy_config(tmp_path, "gap_gaussian")
    store = place_store(config)
    rho_of(config, store)
    other = write_store(tmp_path / "other", length=30)
    other.directory, other.source_hash = store.directory, store.source_hash
    with pytest.raises(ConfigError, match="of other episodes"):
        rho_of(config, other)


def test_a_state_of_another_dataset_is_refused(tmp_path):
    config = toy_config(tmp_path)
    store = place_store(config)
    finetune(config, "run")
    run = RunDirectory(Run(config, "run").directory.path)
    run.summary.unlink()
    account = json.loads((store.directory / "store.json").read_text())
    (store.directory / "store.json").write_text(json.dumps(account | {"source_hash": "another"}))
    with pytest.raises(ConfigError, match="another dataset"):
        finetune(config, "run", resume=True)


def test_images_of_another_size_are_refused(tmp_path):
    config = toy_config(tmp_path, demos=dict(image_size=64))
    place_store(config)
    with pytest.raises(ConfigError, match="32 × 32"):
        finetune(config)


def data_of(task, kind, folder):
    """Where a configuration names data of a task, as far as the task is read from them."""
    if kind == "demonstrations":
        with h5py.File(folder / "demos.hdf5", "w") as file:
            file.create_group("data").attrs["task"] = task
        return {"demos": dict(path=str(folder / "demos.hdf5"))}
    identity = {"name": task} if kind == "name" else {"name": "mine", "data": {"demos": {"task": task}}}
    (folder / "rlds").mkdir()
    (folder / "rlds" / "dataset_info.json").write_text("{}")
    (folder / "rlds" / "metadata.json").write_text(json.dumps({"identity": identity}))
    return {"data": dict(root=str(folder / "data"), rlds=str(folder / "rlds"))}


@pytest.mark.parametrize("kind", ["demonstrations", "name", "made from"])
@pytest.mark.parametrize("task", ["threading", "assembly"])
def test_demonstrations_of_another_task_are_refused_before_anything_is_made(kind, task, tmp_path):
    given = data_of(task, kind, tmp_path)
    for config in (toy_config(tmp_path, **given), FinetuneConfig.from_dict({"task": "assembly", **given})):
        if task == "assembly":
            stages_of(config)
            continue
        with pytest.raises(PolicyError, match="holds demonstrations of threading; the policy is one for assembly"):
            stages_of(config)


def test_a_missing_camera_and_a_missing_phase_are_refused(tmp_path):
    config = toy_config(tmp_path, demos=dict(cameras=("wrist",)))
    place_store(config)
    with pytest.raises(ConfigError, match="no camera 'wrist'"):
        finetune(config)
    config = toy_config(tmp_path, "msbot")
    place_store(config, phases=False)
    with pytest.raises(ConfigError, match="steps/phase"):
        finetune(config)


@pytest.mark.parametrize(
    "method, model, message",
    [
        ("gradnorm", dict(head="gmm"), "negative"),
        ("ogm_ge", dict(head="gmm"), "negative"),
        ("msbot", dict(fusion="film"), "own fusion"),
        ("vision", dict(fusion="film"), "single branch"),
    ],
)
def test_method_fusion_and_head_that_do_not_fit_leave_no_run(method, model, message, tmp_path):
    config = toy_config(tmp_path, method, model=model)
    place_store(config)
    with pytest.raises(ConfigError, match=message):
        finetune(config)
    assert not Path(config.runs).exists()
