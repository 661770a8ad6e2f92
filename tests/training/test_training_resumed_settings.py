"""A run goes on with settings that no training depends on, alone, and leaves nothing where it never began."""

import contextlib
import dataclasses
import errno
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from gap_vla.training.exported import require_exported
from leftovers import leave
from safetensors.numpy import save_file

from gap_vla.core import run_directory
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import CheckpointError
from gap_vla.core.identity import flat
from gap_vla.core.locks import InUseError
from gap_vla.core.measurements import read_metrics
from gap_vla.core.run_directory import EARLIER, RunDirectory, RunExistsError
from gap_vla.core.run_settings import NO_PART_OF_THE_RESULT, of_training
from gap_vla.core.seals import EXPORTED, sealed
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import write_json
from gap_vla.policies import SmallModelConfig, build_policy
from gap_vla.policies.saving import save_policy
from gap_vla.report.runs import Run as ReportedRun
from gap_vla.serving.loading import load_checkpoint
from gap_vla.training.loop import MetricsWriter
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import OctoTrainer
from gap_vla.training.run import Run
from gap_vla.training.torch import SmallConfig

CONFIG = {"task": "threading", "runs": "runs", "train": {"steps": 3, "log_every": 1}, "eval": {"seed": 5, "workers": 1}}


def changed(key, value):
    config = json.loads(json.dumps(CONFIG))
    section, _, name = key.partition(".")
    config[section][name] = value
    return config


def played(run):
    run.rollouts.mkdir()
    (run.rollouts / "episodes.jsonl").write_text("{}\n")


def finished_run(path):
    run = RunDirectory.claim(path, CONFIG, resume=False)
    played(run)
    run.summary.write_text('{"rollouts": "of seed 5"}')
    return run


def test_logging_and_workers_may_change_and_the_old_values_are_noted(tmp_path):
    run = finished_run(tmp_path / "run")
    for config in (changed("train.log_every", 2), changed("eval.workers", 4)):
        assert RunDirectory.claim(run.path, config, resume=True).complete_with(config)
        assert run.read_config() == config
    stored = json.loads(run.config.read_text())
    assert [{k: v for k, v in entry.items() if k != "until"} for entry in stored[EARLIER]] == [
        {"train.log_every": 1},
        {"train.log_every": 2, "eval.workers": 1},
    ]


def test_a_note_on_old_values_that_is_none_is_refused_and_stays(tmp_path):
    run = finished_run(tmp_path / "run")
    write_json(run.config, {**CONFIG, EARLIER: {"train.log_every": 1}})
    with pytest.raises(ConfigError, match=r"config.json: earlier is dict; it must be a list"):
        RunDirectory.claim(run.path, changed("eval.workers", 4), resume=True)
    assert json.loads(run.config.read_text())[EARLIER] == {"train.log_every": 1}


def test_a_run_with_such_a_note_is_reported(tmp_path):
    first = FinetuneConfig.from_dict({"task": "threading", "eval": {"episodes": 100}})
    then = FinetuneConfig.from_dict({"task": "threading", "eval": {"episodes": 50}})
    run = RunDirectory.claim(tmp_path / "run", first.to_dict(), resume=False)
    RunDirectory.claim(run.path, then.to_dict(), resume=True).measure_anew()
    assert EARLIER in json.loads(run.config.read_text())
    assert FinetuneConfig.from_dict(ReportedRun.read(run.path).config) == then


def test_another_evaluation_keeps_the_training_and_sets_the_earlier_rollouts_aside(tmp_path):
    run = finished_run(tmp_path / "run")
    for number, seed in enumerate((6, 7), 1):
        config = changed("eval.seed", seed)
        assert not run.complete_with(config)
        before, again = run.config.read_text(), RunDirectory.claim(run.path, config, resume=True)
        assert run.complete and run.rollouts.exists() and run.config.read_text() == before  # until its state is read
        assert not again.complete
        again.measure_anew()
        assert not run.complete and not run.rollouts.exists()
        assert (run.path / f"rollouts-earlier-{number}").is_dir()
        assert (run.path / f"summary-earlier-{number}.json").exists()
        played(run)
        run.summary.write_text("{}")


@pytest.mark.parametrize("last", ["rollouts", "config"])  # as in the lower layer of an overlay; on a full disk
def test_what_cannot_be_moved_or_written_leaves_the_run_as_it_was(tmp_path, monkeypatch, capsys, last):
    run, rename, write = finished_run(tmp_path / "run"), Path.rename, run_directory.write_json

    def refused(path, new):
        if path == getattr(run, last):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(path))
        return (write if path.suffix == ".json" and not isinstance(new, Path) else rename)(path, new)

    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    again = RunDirectory.claim(run.path, changed("eval.seed", 6), resume=True)
    monkeypatch.setattr(Path, "rename", refused)
    monkeypatch.setattr(run_directory, "write_json", refused)
    with pytest.raises(OSError, match="Invalid cross-device link"):
        again.measure_anew()
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert "is kept as" not in capsys.readouterr().out


def test_a_correction_that_cannot_be_told_is_made_all_the_same(tmp_path, monkeypatch):
    run = finished_run(tmp_path / "run")
    again = RunDirectory.claim(run.path, changed("eval.seed", 6), resume=True)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.print", full)
    with pytest.raises(OSError, match="No space left"):
        again.measure_anew()
    assert not run.summary.exists() and not run.rollouts.exists()
    assert run.read_config()["eval"]["seed"] == 6


def test_rollouts_of_which_a_kill_left_nothing_but_a_lock_are_not_kept_as_earlier_ones(tmp_path):
    run = finished_run(tmp_path / "run")
    shutil.rmtree(run.rollouts)
    (run.rollouts / "default").mkdir(parents=True)
    (run.rollouts / "default" / ".lock").write_text("process 1 on here\n")
    RunDirectory.claim(run.path, changed("eval.seed", 6), resume=True).measure_anew()
    assert run.rollouts.is_dir() and not list(run.path.glob("rollouts-earlier-*"))
    (run.rollouts / "default" / "episodes.jsonl").touch()
    run.summary.write_text("{}")
    RunDirectory.claim(run.path, changed("eval.seed", 7), resume=True).measure_anew()
    assert not run.rollouts.exists() and (run.path / "rollouts-earlier-2" / "default" / "episodes.jsonl").exists()


def test_rollouts_that_may_not_be_looked_into_are_kept(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    run = finished_run(tmp_path / "run")
    again = RunDirectory.claim(run.path, changed("eval.seed", 6), resume=True)
    monkeypatch.setattr("gap_vla.core.run_directory.others_in", refused)
    again.measure_anew()
    assert (run.path / "rollouts-earlier-1").is_dir()


def _json(path):
    path.write_text("{}")


def _parameters(path):
    path.write_bytes(msgpack_serialize({"head": {"kernel": np.arange(50, dtype=np.float32)}}))


def _weights(path):
    save_file({"head": np.arange(50, dtype=np.float32)}, path)


@pytest.mark.parametrize("kind", [FinetuneConfig, SmallConfig])
def test_a_finished_run_without_its_checkpoint_is_not_complete(kind, tmp_path):
    rhythm = dataclasses.replace(kind("threading").train, steps=7)
    unseen = dataclasses.replace(kind("threading").eval, episodes=0)
    config = dataclasses.replace(kind("threading"), runs=str(tmp_path), train=rhythm, eval=unseen)
    run = RunDirectory(Run(config, "named").directory.path)
    run.path.mkdir(parents=True)
    write_json(run.config, config.to_dict())
    write_json(run.dataset, Run(config).stages.made_from(config.backend))
    facts = {"task": "threading", "method": config.method, "seed": 0, "steps": 7, "rollouts": {}}
    facts["validation"] = {"val/action_mse": 0.5, "val/mean_action_mse": 0.5}
    write_json(run.summary, {**facts, "seconds": {"train": 1.0}})
    run.metrics.write_text('{"step": 7, "val/action_mse": 0.5}\n')
    writers = {".json": _json, ".safetensors": _weights, ".msgpack": _parameters, "": _parameters}
    for path in (run.checkpoint / name.format(steps=7) for name in kind.exported):
        with pytest.raises(ConfigError, match=rf"{path}, of a finished run, cannot be read: .*No such file.*; copy it"):
            Run(config, "named").to_the_end(resume=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix](path)
        whole = path.read_bytes()
        for part in (b"", whole[:-1]):
            path.write_bytes(part)
            with pytest.raises(ConfigError, match=rf"{path}, of a finished run, cannot be read"):
                Run(config, "named").to_the_end(resume=True)
        path.write_bytes(whole)
    assert Run(config, "named").to_the_end(resume=True)["steps"] == 7
    ended = {**facts, "seconds": {}, EXPORTED: {str(path.relative_to(run.checkpoint)): "0"}}
    write_json(run.summary, ended)
    with pytest.raises(UserError, match=r"summary\.json: its digests are missing; copy the run again"):
        Run(config, "named").to_the_end(resume=True)
    write_json(run.summary, sealed(run, ended))
    with pytest.raises(ConfigError, match=rf"{path} is not what the run exported; copy the run again"):
        Run(config, "named").to_the_end(resume=True)
    write_json(run.summary, {**facts, "seconds": {}})
    run.metrics.write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl does not end with val/action_mse of step 7"):
        Run(config, "named").to_the_end(resume=True)
    write_json(run.summary, {**facts, "seconds": {"train": "long"}})
    with pytest.raises(UserError, match=r"summary\.json: seconds\.train is 'long'"):
        Run(config, "named").to_the_end(resume=True)


def test_weights_of_a_finished_run_that_are_not_those_of_their_checksum_are_refused(tmp_path):
    policy = build_policy(SmallModelConfig(), "concat", (32, 32, 3), 9, 7, ("primary",))
    columns = [{"mean": np.zeros(n), "std": np.ones(n), "mask": np.ones(n, bool)} for n in (7, 9)]
    save_policy(policy, tmp_path, dict(zip(("action", "proprio"), columns)), "normal")
    require_exported(tmp_path, SmallConfig.exported)
    weights = tmp_path / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40] + bytes(40))
    with pytest.raises(CheckpointError, match=r"policy\.safetensors: its digest is .*, policy\.json says"):
        require_exported(tmp_path, SmallConfig.exported)


def test_what_is_trained_may_not_change(tmp_path):
    run = finished_run(tmp_path / "run")
    before = run.config.read_text()
    with pytest.raises(ConfigError, match=r"trained with another configuration \(train\.steps: 3 then, 4 now\)"):
        RunDirectory.claim(run.path, changed("train.steps", 4), resume=True)
    assert run.config.read_text() == before and run.complete


def test_a_run_is_named_after_what_is_trained_alone():
    def directory_of(config):
        return Run(config).directory.path

    for config in (FinetuneConfig("threading"), SmallConfig("threading")):
        name = directory_of(config).name
        of_eval = dataclasses.replace(config, eval=dataclasses.replace(config.eval, seed=9, episodes=3, workers=3))
        rhythm = dataclasses.replace(config, train=dataclasses.replace(config.train, log_every=7, save_every=9))
        longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=9))
        assert directory_of(of_eval).name == name == directory_of(rhythm).name != directory_of(longer).name


def test_every_setting_that_is_no_part_of_the_result_exists():
    known = {key for kind in (FinetuneConfig, SmallConfig) for key, _ in flat(dataclasses.asdict(kind("threading")))}
    assert known >= NO_PART_OF_THE_RESULT
    assert {"train.seed", "model.head", "demos.seed", "adjustment.lam"} <= of_training(
        FinetuneConfig("threading").to_dict()
    ).keys()


def test_a_second_process_on_a_run_is_refused_with_the_first_ones_number(tmp_path):
    code = (
        "import sys, time; from gap_vla.core.run_directory import RunDirectory\n"
        f"with RunDirectory.held({str(tmp_path / 'run')!r}, {{}}, resume=True):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match=rf"in use by process {first.pid} on \S+; wait"):
            with RunDirectory.held(tmp_path / "run", {}, resume=True):
                pass
    finally:
        first.kill()
        first.wait()
    with RunDirectory.held(tmp_path / "run", {}, resume=True) as run:  # the killed process's lock is gone
        assert run.config.exists()


def test_a_run_that_fails_before_anything_came_of_it_leaves_no_directory(tmp_path):
    with pytest.raises(ConfigError), RunDirectory.held(tmp_path / "run", CONFIG, resume=False, dataset={"demos": 1}):
        raise ConfigError("the dataset has no rho")
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyboardInterrupt), RunDirectory.held(tmp_path / "run", CONFIG, resume=False) as run:
        run.metrics.write_text("{}")
        raise KeyboardInterrupt
    assert run.config.exists() and not run.lock.exists()
    with pytest.raises(RunExistsError, match="started run"), RunDirectory.held(run.path, CONFIG, resume=False):
        pass
    assert run.config.exists()


def test_what_a_killed_training_left_of_its_files_goes_when_it_is_taken_up(tmp_path):
    with RunDirectory.held(tmp_path / "run", CONFIG, resume=False) as run:
        run.metrics.write_text("{}")
    for path in (run.summary, run.state / "latest.json", run.checkpoint / "config.json"):
        leave(path, path.name)
    with RunDirectory.held(run.path, CONFIG, resume=True):
        assert not [*run.path.rglob("*.partial")]


@pytest.mark.parametrize(
    "name",
    [f".{name}.gap_vla-abcd_123.partial/{name}" for name in ("dataset.json", "config.json", "bad_batch.npz")]
    + ["dataset.json"],
)
def test_one_who_was_killed_as_he_began_a_run_begins_it_again(tmp_path, name):
    path = tmp_path / "run"
    with RunDirectory.held(path, CONFIG, resume=False, dataset={"demos": 1}) as run:
        whole = (run.config if "config" in name else run.dataset).read_bytes()
    run.config.unlink()
    run.dataset.unlink()
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(whole[:-3])
    with RunDirectory.held(path, CONFIG, resume=True, dataset={"demos": 1}) as run:
        assert {*path.iterdir()} == {run.config, run.dataset, run.lock}
    run.config.unlink()
    run.dataset.unlink()
    theirs = run.dataset if path / name == run.dataset else (path / name).with_name("mine")
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("the only copy")
    with pytest.raises(UserError, match=r"is no run|mine lies where") as refused:
        with RunDirectory.held(path, CONFIG, False, {"demos": 1}):
            pass
    assert theirs.read_text() == "the only copy"
    assert isinstance(refused.value, RunExistsError) == (theirs == run.dataset)


def test_a_run_killed_before_its_first_save_measures_step_0_once(tmp_path):
    for _ in range(2):
        writer = MetricsWriter(RunDirectory(tmp_path), start_step=0)
        writer.write(0, {"val/loss": 1.0})
        writer.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0]


VALUES = [f'{{"step": 1, "train/loss": {value}}}' for value in ('"low"', "true", "null", "NaN", "-Infinity", "1e999")]


@pytest.mark.parametrize("line", ["1", "[]", "{}", '{"step": "1"}', '{"step": -1}', *VALUES])
def test_a_line_that_is_no_measurement_is_named_and_one_that_was_cut_off_is_left_out(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    for damaged in (b'{"step": 1, "train/lo', b"\0\0\0\0"):
        path.write_bytes(b'{"step": 0, "val/loss": 1}\n' + damaged)
        assert [row["step"] for row in read_metrics(path)] == [0]
    for damaged in (b"\xff", b"\xff\xfe{", b"<html>", b"{\n"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: not valid JSON"):
            read_metrics(path)
    for step, how in ((0, "after step 3"), (3, "again")):
        path.write_text(f'{{"step": 3, "val/loss": 1}}\n{{"step": {step}, "val/loss": 1}}\n')
        with pytest.raises(UserError, match=rf"metrics\.jsonl, line 2: step {step} comes {how}"):
            read_metrics(path)
    damages = (b'{"step": 1, "train/lo', b"\0\0\0\0", b"")
    for damaged, after in itertools.product(damages, (b'{"step": 2}', b'{"step": 2, "tr')):
        path.write_bytes(b'{"step": 0}\n' + damaged + b"\n" + after)
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not valid JSON; copy"):
            read_metrics(path)
    path.write_text(f'{{"step": 0}}\n{{"step": 1, "train/loss": 1{400 * "0"}}}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not valid JSON"):
        read_metrics(path)
    path.write_text(f'{{"step": 0}}\n{line}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)


def test_an_octo_that_is_shown_one_state_keeps_the_directory_that_it_had_before_more_could_be_shown():
    before = FinetuneConfig("assembly").to_dict()
    assert "proprio_history" not in before["model"] and FinetuneConfig.from_dict(before).model.proprio_history == 1
    more = FinetuneConfig.from_dict(before | {"model": before["model"] | {"proprio_history": 5}})
    assert of_training(more.to_dict())["model.proprio_history"] == 5
    assert Run(more).directory.path != Run(FinetuneConfig("assembly")).directory.path


def test_a_finished_run_whose_summary_is_a_link_to_nowhere_is_not_taken_for_an_unfinished_one(tmp_path):
    config = FinetuneConfig.from_dict({"task": "threading"}).to_dict()
    run = RunDirectory.claim(tmp_path / "run", config, resume=False)
    run.checkpoint.mkdir()
    run.summary.symlink_to("../.git/annex/objects/summary.json")
    assert run.complete_with(config)
    for read in (ReportedRun.read, load_checkpoint):
        with pytest.raises(UserError, match=r"run/summary\.json"):
            read(run.path)


@pytest.mark.parametrize("name", ["tensorboard", "checkpoint", "state"])
def test_a_run_with_a_link_in_it_is_not_taken_up(tmp_path, name):
    run = finished_run(tmp_path / "run")
    (tmp_path / "foreign").mkdir()
    (run.path / name).symlink_to(tmp_path / "foreign")
    with (
        pytest.raises(RunExistsError, match=rf"run/{name} is a link; a run writes files of its own"),
        RunDirectory.held(run.path, CONFIG, resume=True),
    ):
        pass
    assert not list((tmp_path / "foreign").iterdir())


@pytest.mark.parametrize("link", ["checkpoint", "checkpoint/6", "checkpoint/6/default"])
def test_an_octo_is_not_exported_through_a_link(link, tmp_path):
    run = finished_run(tmp_path / "run")
    (tmp_path / "foreign").mkdir()
    (run.path / link).parent.mkdir(parents=True, exist_ok=True)
    (run.path / link).symlink_to(tmp_path / "foreign")

    def save_pretrained(step, checkpoint_path):
        for name in ("config.json", f"{step}/default/checkpoint"):
            place = Path(checkpoint_path, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("ours")

    model = SimpleNamespace(save_pretrained=save_pretrained)
    with pytest.raises(RunExistsError, match=rf"run/{link} is a link; a run writes files of its own: remove it, or"):
        OctoTrainer.export(SimpleNamespace(model=lambda: model, steps=6), run)
    assert not [*tmp_path.rglob("config.json")][1:] and not [*(tmp_path / "foreign").iterdir()]
    (run.path / link).unlink()
    OctoTrainer.export(SimpleNamespace(model=lambda: model, steps=6), run)
    assert (run.checkpoint / "6" / "default" / "checkpoint").read_text() == "ours"


@contextlib.contextmanager
def killed_before_renaming(number):
    """Within it, a process is killed before it renames so often."""
    real, counted = Path.rename, itertools.count(1)

    def rename(path, new):
        if next(counted) == number:
            raise KeyboardInterrupt
        return real(path, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        yield


def test_a_summary_and_its_rollouts_have_one_number_also_after_a_kill_between_them(tmp_path):
    run = finished_run(tmp_path / "run")
    for number, seed in enumerate((6, 7), 1):
        run.summary.write_text(f"of change {number}")
        (run.rollouts / "episodes.jsonl").write_text(f"of change {number}")
        with killed_before_renaming(2), pytest.raises(KeyboardInterrupt):
            RunDirectory.claim(run.path, changed("eval.seed", seed), resume=True).measure_anew()
        assert not run.summary.exists() and run.rollouts.exists()
        RunDirectory.claim(run.path, changed("eval.seed", seed), resume=True).measure_anew()
        assert (run.path / f"summary-earlier-{number}.json").read_text() == f"of change {number}"
        assert (run.path / f"rollouts-earlier-{number}" / "episodes.jsonl").read_text() == f"of change {number}"
        played(run)


def test_rollouts_are_not_kept_beside_the_summary_of_another_change(tmp_path):
    run = finished_run(tmp_path / "run")
    shutil.rmtree(run.rollouts)
    RunDirectory.claim(run.path, changed("eval.seed", 6), resume=True).measure_anew()
    assert (run.path / "summary-earlier-1.json").exists()
    played(run)  # and stopped before its summary
    RunDirectory.claim(run.path, changed("eval.seed", 7), resume=True).measure_anew()
    assert [path.name for path in run.path.glob("rollouts-earlier-*")] == ["rollouts-earlier-2"]
