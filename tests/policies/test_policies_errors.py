"""Data and parts that do not fit are refused in words before training."""

import errno
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from gap_vla.training.idle_keys import without_effect
from toy_store import episode, place_store, toy_config, write_store

from gap_vla.core.errors import UserError
from gap_vla.core.errors import UserError as PolicyError
from gap_vla.core.foreign import CheckpointError
from gap_vla.core.measurements import read_metrics
from gap_vla.core.run_directory import RunDirectory, RunExistsError
from gap_vla.core.seals import DIGESTS, EXPORTED
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.resnet18 import Trunk
from gap_vla.policies.windows import rho_of
from gap_vla.report.runs import Run as FinishedRun
from gap_vla.rollouts.records import EpisodeRecord, summarize
from gap_vla.serving.loading import load_checkpoint
from gap_vla.training.data import training_rho
from gap_vla.training.metrics import require_own
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import Run, finetune
from gap_vla.training.stages import require_data_of, stages_of
from gap_vla.training.torch import SmallConfig
from gap_vla.training.torch_trainer import SmallTrainer


def test_a_dataset_without_rho_is_refused_for_gap_and_trains_concat(tmp_path):
    gap, concat = toy_config(tmp_path, "gap"), toy_config(tmp_path, "concat")
    place_store(gap, rho=False)
    with pytest.raises(ConfigError, match="no steps/rho, which method gap needs"):
        finetune(gap)
    assert finetune(concat)["steps"] == 12


def test_a_training_does_not_go_on_with_other_labels_of_its_own(tmp_path):
    config = toy_config(tmp_path, "gap_gaussian")
    store = place_store(config)
    trainer = SmallTrainer.on(config, store)
    trainer.restore(tmp_path)
    trainer.save(4)
    trainer.windows.rho += np.float32(1e-5)  # as another machine rounds it
    assert trainer.restore(tmp_path) == 4
    trainer.windows.rho[5] += 0.2
    with pytest.raises(ConfigError, match=r"training\.pt: rho was labelled otherwise, .*copy its folder \*\.rho"):
        trainer.restore(tmp_path)


def test_labels_of_other_episodes_are_refused(tmp_path):
    config = toy_config(tmp_path, "gap_gaussian")
    store = place_store(config)
    rho_of(config, store)
    other = write_store(tmp_path / "other", train=5, val=3)
    other.directory, other.source_hash = store.directory, store.source_hash
    with pytest.raises(ConfigError, match="of other episodes"):
        rho_of(config, other)


def test_a_state_of_another_dataset_is_refused(finished):
    config = toy_config(finished)
    store = stages_of(config).store
    run = RunDirectory(Run(config, "run").directory.path)
    run.summary.unlink()
    account = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(account | {"source_hash": "another"}))
    with pytest.raises(ConfigError, match="other data"):
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
    (folder / "rlds" / "metadata.json").write_text(json.dumps({"identity": identity, "identity_hash": "0"}))
    return {"data": dict(root=str(folder / "data"), rlds=str(folder / "rlds"))}


@pytest.mark.parametrize("kind", ["demonstrations", "name", "made from"])
@pytest.mark.parametrize("task", ["threading", "assembly"])
def test_demonstrations_of_another_task_are_refused_before_anything_is_made(kind, task, tmp_path):
    given = data_of(task, kind, tmp_path)
    for config in (toy_config(tmp_path, **given), FinetuneConfig.from_dict({"task": "assembly", **given})):
        if task == "assembly":
            stages_of(config)
            continue
        with pytest.raises(PolicyError, match="holds demonstrations of threading, not of assembly"):
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
    ("method", "phases", "words"),
    [
        ("msbot", {}, "demos has no steps/phase, which method msbot needs; add that column"),
        ("keyframe", {"method": "none"}, "phases.method is 'none', and this method needs ρ or change points"),
    ],
)
def test_labels_that_demonstrations_will_not_have_are_missed_before_anything_is_made(method, phases, words, tmp_path):
    (tmp_path / "demos").mkdir()
    for number in range(4):
        one = episode(number)
        arrays = {"image_primary": one.images["image_primary"], "proprio": one.proprio, "action": one.action}
        np.savez(tmp_path / "demos" / f"{number}.npz", **arrays)
    demos = dict(path=str(tmp_path / "demos"), kind="npz")
    config = toy_config(tmp_path, method, demos=demos, phases=phases)
    with pytest.raises(ConfigError, match=words):
        Run(config).dry_run()
    Run(toy_config(tmp_path, demos=demos)).dry_run()


def test_what_labels_the_dataset_alone_does_not_stop_a_method_that_labels_itself(tmp_path):
    phases = {"seed": 1, "options": {"hidden": 4, "penalty": 0.7, "spread": 2.0}}
    config = toy_config(tmp_path, "gap_gaussian", phases=phases)
    config.require_ready()
    store = place_store(config)
    with_own, plain = rho_of(config, store), rho_of(toy_config(tmp_path, "gap_gaussian", phases={}), store)
    kept = store.directory.with_name(f"{store.directory.name}.rho")
    options = [json.loads((one / "annotator.json").read_text())["options"]["penalty"] for one in kept.iterdir()]
    assert with_own.keys() == plain.keys() and 0.7 in options and len(options) == 2
    one, other = kept.iterdir()
    for place, source in ((kept / "kept", one), (one, other), (other, kept / "kept")):  # as a restore does
        source.replace(place)
    with pytest.raises(ConfigError, match=r"are of another options .{'penalty': 0\.7}.; move it away"):
        rho_of(toy_config(tmp_path, "gap_gaussian", phases={}), store)
    given = toy_config(tmp_path, "gap_gaussian", phases=phases, data=dict(rlds="d"))
    with pytest.raises(UserError, match="hidden, seed, spread: no effect with method 'gaussian'"):
        given.require_ready()


def test_rho_of_a_window_has_no_effect_where_all_of_its_steps_have_the_same(tmp_path):
    same, other = toy_config(tmp_path, "lambda_matched"), toy_config(tmp_path, "gap", adjustment=dict(mode="update"))
    assert without_effect(same, "adjustment.rho") and not without_effect(same, "adjustment.lam")
    assert not without_effect(other, "adjustment.rho")


def test_a_part_of_the_adjustment_leaves_the_rest_as_small_policies_have_it():
    default = SmallConfig("assembly").to_dict()["adjustment"]
    given = {"lam": 0.2}, {**default, "lam": 0.2}
    part, whole = (SmallConfig.from_dict({"task": "assembly", "adjustment": one}) for one in given)
    assert part == whole and part.adjustment.rho == "current"
    expected = {"mode": "sample", "lam": 0.3, "window": 0.5, "rho": "current", "fixed_rho": 0.5}
    assert list(default.items()) == list(expected.items())


def test_a_saved_state_of_another_run_is_refused(finished):
    one = toy_config(finished)
    paths = [Run(one, name).directory.path for name in ("run", "other")]
    (paths[0] / "summary.json").unlink()
    (paths[0] / "state" / "training.pt").write_bytes((paths[1] / "state" / "training.pt").read_bytes())
    with pytest.raises(ConfigError, match=r"run/state/training\.pt: of other settings, or an earlier"):
        finetune(one, "run", resume=True)
    silent = torch.load(paths[1] / "state" / "training.pt", weights_only=True)
    del silent["settings"]
    torch.save(silent, paths[0] / "state" / "training.pt")
    with pytest.raises(ConfigError, match=": of other settings, or an earlier version"):
        finetune(one, "run", resume=True)


def test_a_run_that_is_renamed_while_it_trains_stops_and_leaves_nothing_under_its_old_name(tmp_path, monkeypatch):
    config, step = toy_config(tmp_path), SmallTrainer.step
    place_store(config)
    path = Run(config, "run").directory.path

    def renaming(trainer, batch, number, measure=False):
        if number == 6:
            path.rename(path.with_name("renamed"))
        return step(trainer, batch, number, measure)

    with monkeypatch.context() as patched, pytest.raises(UserError, match="run was renamed or removed meanwhile"):
        patched.setattr(SmallTrainer, "step", renaming)
        finetune(config, "run")
    assert not path.exists()
    assert finetune(config, "renamed", resume=True)["steps"] == 12


def test_rollouts_stay_where_they_are_until_the_state_that_makes_others_is_known_to_be_sound(finished):
    other = toy_config(finished, eval=dict(seed=2))
    path = Run(other, "run").directory.path
    state = path / "state" / "training.pt"
    sound, before = state.read_bytes(), {file.name: file.read_bytes() for file in path.glob("*.json")}
    state.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"training\.pt is damaged"):
        finetune(other, "run", resume=True)
    assert {file.name: file.read_bytes() for file in path.glob("*.json")} == before
    state.write_bytes(sound)
    finetune(other, "run", resume=True)
    assert json.loads((path / "config.json").read_text())["eval"]["seed"] == 2
    assert (path / "summary-earlier-1.json").read_bytes() == before["summary.json"]


def test_rollouts_are_made_again_with_the_state_and_the_data_of_their_training_alone(finished, tmp_path, monkeypatch):
    other = toy_config(finished, eval=dict(seed=2))
    path = Run(other, "run").directory.path

    def contents():
        return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def other_data(*_):
        raise ConfigError("other data")

    before = contents()
    with monkeypatch.context() as patched, pytest.raises(ConfigError, match="other data"):
        patched.setattr("gap_vla.training.run.require_data_of", other_data)
        finetune(other, "run", resume=True)
    shutil.move(path / "state", tmp_path / "state")
    with pytest.raises(ConfigError, match=r"run: its rollouts cannot be made again without the state in state/; copy"):
        finetune(other, "run", resume=True)
    shutil.move(tmp_path / "state", path / "state")
    assert contents() == before
    finetune(other, "run", resume=True)


def test_a_run_goes_on_with_the_dataset_that_it_was_begun_on(tmp_path):
    from gap_vla.rlds import write_rlds

    def built(length):
        episodes = [episode(seed, length=length) for seed in range(4)]
        return write_rlds(episodes, tmp_path / "rlds", "assembly", val_fraction=0.25, overwrite=True)

    train = dict(steps=4, log_every=4, validate_every=4, save_every=4)
    config = toy_config(tmp_path, data=dict(rlds=str(built(12))), train=train)
    finetune(config, "run")
    run = RunDirectory(Run(config, "run").directory.path)
    run.summary.unlink()
    shutil.rmtree(run.state)
    said = Run(config, "run").dry_run()
    assert "started; --resume goes on with it" in said and "demos.hdf5 (not needed)" in said
    built(14)
    assert "--resume would be refused: " in Run(config, "run").dry_run()
    with pytest.raises(ConfigError, match=r"1\.0\.0 holds other data than this run was trained on; give another"):
        finetune(config, "run", resume=True)


def test_measurements_of_another_run_are_not_taken_over(finished, monkeypatch):
    config = toy_config(finished)
    own, other = (Run(config, name).directory for name in ("run", "other"))
    whole = own.metrics.read_bytes()
    own.summary.unlink()
    shutil.copy(other.metrics, own.metrics)
    with pytest.raises(
        UserError, match=r"metrics\.jsonl says val/\w+ .* of step (0|12), where the saved state has .*: copy"
    ):
        finetune(config, "run", resume=True)
    assert own.metrics.read_bytes() == other.metrics.read_bytes() and not own.summary.exists()
    own.metrics.write_bytes(whole)

    def exchanged(*_):
        own.metrics.write_bytes(other.metrics.read_bytes())
        return {}

    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"metrics\.jsonl ends with val/\w+ .*; copy"):
        patched.setattr("gap_vla.training.run.rollouts", exchanged)
        finetune(config, "run", resume=True)
    assert not own.summary.exists()
    own.metrics.write_bytes(whole)
    finetune(config, "run", resume=True)


@pytest.mark.parametrize(
    "changes",
    [dict(train=dict(seed=1)), pytest.param(dict(optimizer=dict(learning_rate=3e-2)), marks=pytest.mark.slow)],
)
def test_measurements_of_another_run_are_not_continued_where_nothing_held_out_was_measured_last(changes, tmp_path):
    rhythm = dict(log_every=2, validate_every=12, save_every=4)
    configs = [toy_config(tmp_path, **{**more, "train": rhythm | more.get("train", {})}) for more in ({}, changes)]
    place_store(configs[0])
    own, other = (Run(config, name).directory for config, name in zip(configs, ("run", "other")))

    class Killed(SmallTrainer):
        def save(self, done):
            super().save(done)
            if done == 8:
                raise KeyboardInterrupt

    for config, run in zip(configs, (own, other)):
        with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("gap_vla.training.torch_trainer.SmallTrainer", Killed)
            finetune(config, run.path.name)
    whole = own.metrics.read_bytes()
    shutil.copy(other.metrics, own.metrics)
    with pytest.raises(UserError, match=r"metrics\.jsonl says \S+ .* of step [08], where the saved state has .*: copy"):
        finetune(configs[0], "run", resume=True)
    assert own.metrics.read_bytes() == other.metrics.read_bytes()
    own.metrics.write_bytes(whole)
    summary = finetune(configs[0], "run", resume=True)
    ends = [EpisodeRecord(0, 7, True, 3), EpisodeRecord(1, 8, False, 2, error="step 2: the simulator failed: NaN")]
    summary["variants"] = {"default": summarize(ends)}
    said = Run(configs[0], "run").report(summary)
    assert summary["training"]["resumed_after"] == 8 and " since step 8)" in said
    assert "1 of 2 episodes were cut short by the simulator, not by the policy, and count as failed" in said


def test_a_run_goes_on_and_answers_for_the_weights_of_its_encoder_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("toy_store.SIZE", 40)  # it takes no smaller pictures
    weights = tmp_path / "resnet18.pth"
    resnet = dict(encoder="resnet18", encoder_weights=str(weights))
    config = toy_config(tmp_path, model=resnet)
    torch.save(Trunk(3).state_dict(), weights)
    store = place_store(config, train=1, val=1)
    trainer = SmallTrainer.on(config, store)
    trainer.restore(tmp_path)
    trainer.save(0)
    require_data_of({"training": trainer.facts()}, config, stages_of(config))
    trainer.restore(tmp_path)
    torch.save({name: value + 1 for name, value in Trunk(3).state_dict().items()}, weights)
    words = r"model\.encoder_weights, .*pth, holds other parameters \(CRC-32 \w{8}\) than this run was trained from"
    with pytest.raises(ConfigError, match=words):
        trainer.restore(tmp_path)
    with pytest.raises(ConfigError, match=words):
        require_data_of({"training": trainer.facts()}, config, stages_of(config))
    trainer._weights = {}  # as in an earlier version
    trainer.save(0)
    trainer.restore(tmp_path)
    require_data_of({"training": trainer.facts()}, config, stages_of(config))


def test_a_saved_state_goes_on_with_its_own_measurements_as_another_machine_rounds_them(tmp_path):
    run = RunDirectory.claim(tmp_path / "run", {}, resume=False)
    run.metrics.write_text('{"step": 4, "val/action_mse": 0.5, "val/loss": 2.0}\n')
    require_own(run, 4, 12, {"val/action_mse": 0.5004, "val/loss": 1.0})
    require_own(run, 8, 12, {"val/action_mse": 9.0})
    for steps, measured in ((12, 0.51), (4, 0.501)):
        with pytest.raises(UserError, match=r"says val/action_mse 0\.5 of step 4, where the saved state has 0\.5"):
            require_own(run, 4, steps, {"val/action_mse": measured})


def test_a_checkpoint_of_another_run_is_refused_though_nothing_was_rolled_out(finished):
    config = toy_config(finished)
    own, other = (Run(config, name).directory for name in ("run", "other"))
    load_checkpoint(own.path)
    shutil.copytree(other.checkpoint, own.checkpoint, dirs_exist_ok=True)
    for read in (load_checkpoint, lambda path: finetune(config, path.name, resume=True)):
        with pytest.raises(CheckpointError, match=r"checkpoint/policy\.\w+ is not what the run exported; copy the run"):
            read(own.path)
    written = json.loads(own.summary.read_text())
    own.summary.write_text(json.dumps({k: v for k, v in written.items() if k not in (EXPORTED, DIGESTS)}))
    load_checkpoint(own.path)  # of an earlier version


@pytest.mark.parametrize("emptied", [False, True])
def test_measurements_that_an_editor_saves_anew_while_a_run_trains_are_not_lost_in_silence(
    emptied, tmp_path, monkeypatch
):
    config, step = toy_config(tmp_path), SmallTrainer.step
    place_store(config)
    path = Run(config, "run").directory.path

    def editing(trainer, batch, number, measure=False):
        if number == 6:
            shutil.copy(path / "metrics.jsonl", path / "~")
            (path / "~").rename(path / "metrics.jsonl") if not emptied else os.truncate(path / "metrics.jsonl", 0)
        return step(trainer, batch, number, measure)

    with (
        monkeypatch.context() as patched,
        pytest.raises(UserError, match=r"metrics\.jsonl was replaced or cut meanwhile"),
    ):
        patched.setattr(SmallTrainer, "step", editing)
        finetune(config, "run")
    assert not (path / "summary.json").exists()
    assert finetune(config, "run", resume=True)["steps"] == 12
    assert read_metrics(path / "metrics.jsonl", finished=True)[-1]["step"] == 12


def test_a_run_in_whose_place_another_is_put_while_it_trains_writes_nothing_into_that(finished, monkeypatch):
    config, step = toy_config(finished), SmallTrainer.step
    path, other = (Run(config, name).directory.path for name in ("new", "other"))

    def replacing(trainer, batch, number, measure=False):
        if number == 6:
            path.rename(path.with_name("renamed"))
            shutil.copytree(other, path)
            (path / ".lock").write_text("process 1 on another\n")
        return step(trainer, batch, number, measure)

    with monkeypatch.context() as patched, pytest.raises(UserError, match="new was renamed or removed meanwhile"):
        patched.setattr(SmallTrainer, "step", replacing)
        finetune(config, "new")
    assert (path / ".lock").read_text() == "process 1 on another\n"
    for file in other.rglob("*"):
        assert file.is_dir() or (path / file.relative_to(other)).read_bytes() == file.read_bytes()


def test_a_checkpoint_that_becomes_a_link_while_a_run_trains_is_not_written_through(finished, monkeypatch):
    config, step = toy_config(finished), SmallTrainer.step
    run, other = (Run(config, name).directory for name in ("new", "other"))
    before = {path: path.read_bytes() for path in other.checkpoint.iterdir()}

    def linking(trainer, batch, number, measure=False):
        if number == 6:
            run.checkpoint.symlink_to(other.checkpoint)
        return step(trainer, batch, number, measure)

    with monkeypatch.context() as patched, pytest.raises(UserError, match="new/checkpoint is a link; a run writes"):
        patched.setattr(SmallTrainer, "step", linking)
        finetune(config, "new")
    assert {path: path.read_bytes() for path in before} == before


def test_settings_that_are_edited_while_a_run_trains_are_not_sealed_as_its_own(tmp_path, monkeypatch):
    config, step = toy_config(tmp_path), SmallTrainer.step
    place_store(config)
    run = Run(config, "run").directory

    def editing(trainer, batch, number, measure=False):
        if number == 6:
            stored = run.config.read_text()
            run.config.write_text(stored.replace('"learning_rate": 0.01', '"learning_rate": 0.02'))
            assert run.config.read_text() != stored
        return step(trainer, batch, number, measure)

    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"config\.json was changed while the run"):
        patched.setattr(SmallTrainer, "step", editing)
        finetune(config, "run")
    assert not run.summary.exists()


def test_a_summary_of_another_program_that_comes_while_a_run_trains_stays(tmp_path, monkeypatch):
    config, step = toy_config(tmp_path), SmallTrainer.step
    place_store(config)
    summary = Run(config, "run").directory.summary

    def meanwhile(trainer, batch, number, measure=False):
        summary.write_text("mine")
        return step(trainer, batch, number, measure)

    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"summary\.json came while the run was"):
        patched.setattr(SmallTrainer, "step", meanwhile)
        finetune(config, "run")
    assert summary.read_text() == "mine"
    summary.unlink()
    assert finetune(config, "run", resume=True)["steps"] == 12


def test_a_run_without_its_settings_or_measurements_is_not_taken_up_in_silence(finished, tmp_path, capsys):
    config = toy_config(finished)
    run = Run(config, "run").directory
    run.summary.unlink()
    run.metrics.rename(tmp_path / "metrics.jsonl")
    finetune(config, "run", resume=True)
    assert "metrics.jsonl holds nothing of the first 12 steps" in capsys.readouterr().out
    run.config.unlink()
    with pytest.raises(RunExistsError, match=r"run exists and has lost its config\.json: copy the run again"):
        finetune(config, "run", resume=True)


@pytest.mark.parametrize(
    "method, model, message",
    [
        ("gradnorm", dict(head="gmm"), "negative"),
        ("ogm_ge", dict(head="gmm"), "negative"),
    ],
)
def test_method_fusion_and_head_that_do_not_fit_leave_no_run(method, model, message, tmp_path):
    config = toy_config(tmp_path, method, model=model)
    place_store(config)
    with pytest.raises(ConfigError, match=message):
        finetune(config)
    assert not Path(config.runs).exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_labels_that_cannot_be_kept_stop_no_training_and_are_said_not_to_be(number, tmp_path, monkeypatch, capsys):
    config = toy_config(tmp_path, "gap_gaussian")
    store = place_store(config)
    kept = rho_of(config, store)
    folder = store.directory.with_name(f"{store.directory.name}.rho")
    shutil.rmtree(folder)

    def refused(annotation, directory):
        raise OSError(number, os.strerror(number), str(directory))

    with monkeypatch.context() as patch:
        patch.setattr("gap_vla.phases.Annotation.save", refused)
        found = rho_of(config, store)
        assert np.array_equal(found["train"], kept["train"]) and np.array_equal(found["val"], kept["val"])
        said = capsys.readouterr().err
        assert f"note: labels cannot be kept in {folder}/gaussian-" in said and os.strerror(number) in said
        number = errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            rho_of(config, store)
    assert not folder.exists()


def test_a_report_makes_the_labels_that_it_misses_and_writes_nothing_into_the_data(tmp_path, capsys):
    config = toy_config(tmp_path, "gap_gaussian")
    store = place_store(config)
    finetune(config, "run")
    folder = store.directory.with_name(f"{store.directory.name}.rho")
    run = FinishedRun.read(tmp_path / "runs" / "assembly" / "run")
    kept = training_rho(run)[1]
    shutil.rmtree(folder)
    capsys.readouterr()
    assert np.array_equal(training_rho(run)[1], kept) and not folder.exists()
    assert capsys.readouterr().out == "rho: labelling 8 episodes with gaussian\n"
