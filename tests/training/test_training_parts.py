"""The parts of the loop that need no accelerator library: run directories, metrics, pictures, progress."""

import io
import json
import resource
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gap_vla.core.measurements import read_metrics
from gap_vla.core.progress import Agenda, Progress, duration
from gap_vla.core.run_directory import RunDirectory, RunExistsError
from gap_vla.core.typed_config import ConfigError
from gap_vla.drawing.batch import STRIP, batch_picture
from gap_vla.rlds.statistics import dataset_statistics
from gap_vla.sim import task_spec
from gap_vla.training.config import LOGGERS
from gap_vla.training.data import unlearnt
from gap_vla.training.loop import DivergedError, MetricsWriter
from gap_vla.training.octo import FinetuneConfig, OctoTrainConfig
from gap_vla.training.run import Run

CONFIG = {"task": "threading", "train": {"steps": 3}}


def test_an_existing_run_is_never_overwritten(tmp_path):
    RunDirectory.claim(tmp_path / "run", CONFIG, resume=False)
    with pytest.raises(RunExistsError, match=r"--resume .* --run-name"):
        RunDirectory.claim(tmp_path / "run", CONFIG, resume=False)


def test_a_foreign_folder_is_never_taken_for_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(RunExistsError, match="is no run: move it"):
            RunDirectory.claim(tmp_path, CONFIG, resume=resume)


def test_resuming_with_another_configuration_names_the_key_and_both_values(tmp_path):
    RunDirectory.claim(tmp_path / "run", CONFIG, resume=False)
    RunDirectory.claim(tmp_path / "run", CONFIG, resume=True)
    with pytest.raises(ConfigError, match=r"train\.steps: 3 then, 4 now"):
        RunDirectory.claim(tmp_path / "run", {**CONFIG, "train": {"steps": 4}}, resume=True)


def test_a_run_goes_on_only_with_the_data_it_was_trained_on(tmp_path):
    data = {"phases": {"labels_version": 3}, "cameras": ("primary",)}
    RunDirectory.claim(tmp_path / "run", CONFIG, resume=False, dataset=data)
    RunDirectory.claim(tmp_path / "run", CONFIG, resume=True, dataset=data)
    with pytest.raises(ConfigError, match=r"other data \(phases\.labels_version: 3 then, 4 now\).*--run-name"):
        RunDirectory.claim(tmp_path / "run", CONFIG, resume=True, dataset={**data, "phases": {"labels_version": 4}})


def test_a_run_whose_data_nobody_noted_is_not_gone_on_with(tmp_path):
    RunDirectory.claim(tmp_path / "run", CONFIG, resume=False)
    with pytest.raises(ConfigError, match=r"dataset.json is missing; copy the run again, or start another"):
        RunDirectory.claim(tmp_path / "run", CONFIG, resume=True, dataset={"demos": "x"})


def test_resumed_metrics_forget_the_steps_that_will_be_measured_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsWriter(RunDirectory(tmp_path))
    for step in range(1, 6):
        first.write(step, {"loss": step})
    first.close()
    path.write_text(path.read_text() + '{"step": 6, "los')  # cut off by a kill
    second = MetricsWriter(RunDirectory(tmp_path), start_step=3)
    second.write(4, {"loss": 40})
    second.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    before = path.read_bytes()
    third = MetricsWriter(RunDirectory(tmp_path), start_step=4)
    for value in (np.float32("nan"), float("-inf")):
        with pytest.raises(DivergedError, match=r"val/loss is (nan|-inf) after step 5; look for extreme values"):
            third.write(5, {"loss": 1.0, "val/loss": value})
    third.close()
    assert path.read_bytes() == before


STAND_IN = """
calls = []
def init(**how): calls.append(("init", how))
def log(values, step): calls.append(("log", step, values))
def finish(): calls.append(("finish",))
"""


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_logger_gets_every_measurement_and_a_resumed_run_goes_on_in_its_own(logger, tmp_path, monkeypatch):
    (tmp_path / f"{logger}.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    config = {**CONFIG, "train": {**CONFIG["train"], "logger": "none"}}
    RunDirectory.claim(tmp_path / "threading" / "run", config, resume=False, dataset={})
    config["train"]["logger"] = logger  # no part of what is trained: the run goes on
    run = RunDirectory.claim(tmp_path / "threading" / "run", config, resume=True, dataset={})
    for step in (0, 3):
        metrics = MetricsWriter(run, step, logger)
        metrics.write(step, {"train/loss": np.float32(0.5)})
        metrics.close()
    calls = sys.modules.pop(logger).calls
    assert [call[0] for call in calls] == ["init", "log", "finish"] * 2
    assert calls[0] == calls[3] and calls[4] == ("log", 3, {"train/loss": 0.5})
    how = calls[0][1]
    assert (how["project"], how["name"], how["resume"]) == ("gap_vla-threading", "run", "allow")
    assert how["config"] == config and how.keys() <= {"project", "name", "resume", "config", "id"}
    assert [row["step"] for row in read_metrics(run.metrics)] == [0, 3]


FAILS = """
def init(**how):
    if how["name"] == "first": raise RuntimeError("no account")
def log(values, step): raise ConnectionError("network gone")
"""


def test_a_logger_that_fails_is_a_line_and_training_goes_on_without_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "trackio.py").write_text(FAILS)
    monkeypatch.syspath_prepend(tmp_path)
    first, second = (
        RunDirectory.claim(tmp_path / "runs" / name, CONFIG, resume=False, dataset={}) for name in ("first", "second")
    )
    with pytest.raises(ConfigError, match=r"trackio cannot begin \(no account\); --resume --config.train.logger=none"):
        MetricsWriter(first, 0, "trackio")
    metrics = MetricsWriter(second, 0, "trackio")
    for step in (1, 2):
        metrics.write(step, {"train/loss": 0.5})
    metrics.close()
    assert capsys.readouterr().err == "train.logger: log failed (network gone); training goes on without it\n"
    assert [row["step"] for row in read_metrics(second.metrics)] == [1, 2]
    del sys.modules["trackio"]


def test_a_logger_that_is_not_installed_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    train = OctoTrainConfig(logger="wandb")
    config = FinetuneConfig(task="threading", runs=str(tmp_path), train=train)
    with pytest.raises(ConfigError, match=r"^train\.logger: wandb cannot be used \(.*\): pip install wandb$"):
        Run(config).to_the_end()
    assert not list(tmp_path.iterdir())
    assert "logger" not in FinetuneConfig(task="threading").to_dict()["train"], "old runs are taken up without a note"
    assert Run(config).directory.path == Run(FinetuneConfig(task="threading", runs=str(tmp_path))).directory.path
    with pytest.raises(ConfigError, match=r"train\.logger 'wandbb' is unknown \(did you mean 'wandb'\?\)"):
        OctoTrainConfig(logger="wandbb")


def test_the_picture_shows_frames_with_their_rho_from_blue_to_red_and_padding_dark():
    images = np.full((2, 2, 4, 4, 3), 200, np.uint8)
    mask = np.array([[False, True], [True, True]])
    batch = {
        "observation": {"image_primary": images, "timestep_pad_mask": mask},
        "rho": np.array([[0.0, 1.0], [0.0, 0.0]], np.float32),
    }
    picture = batch_picture(batch, columns=2, rows=1, scale=2)
    assert picture.shape == (8 + STRIP + 4, 2 * (16 + 4), 3)
    padded, current = picture[4, 4], picture[4, 14]
    assert padded.max() < current.min()
    strip = picture[8 + STRIP, :, :]
    assert strip[14, 0] > strip[14, 2] and strip[24, 2] > strip[24, 0]  # red at rho 1, blue at rho 0


def test_cameras_of_different_sizes_stand_below_each_other():
    films = {f"image_{name}": np.full((2, 1, size, size, 3), 200, np.uint8) for name, size in (("a", 4), ("b", 8))}
    batch = {"observation": {**films, "timestep_pad_mask": np.ones((2, 1), bool)}, "rho": np.zeros((2, 1), np.float32)}
    assert batch_picture(batch, columns=2, rows=1, scale=2).shape == (8 + 16 + STRIP + 4, 2 * (16 + 4), 3)
    large = {"image_primary": np.zeros((2, 1, 480, 640, 3), np.uint8), "timestep_pad_mask": np.ones((2, 1), bool)}
    assert batch_picture({"observation": large}, columns=2).shape == (160 + 4, 2 * (214 + 4), 3), "of a real camera"


@pytest.mark.parametrize(("normalization", "beyond"), [("normal", "6.24 in column 0"), ("bounds", "")])
def test_what_a_policy_cannot_learn_of_its_data_is_said(normalization, beyond):
    def store(*texts, gripper=1.0, outlier=0.0):
        action = np.linspace(-1, 1, 40)[:, None] * [1, 1, 1, 1, 1, 1, gripper]
        if outlier:
            action[:, 0] = outlier * (np.arange(40) == 7)
        split = SimpleNamespace(languages=[*texts])
        statistics = dataset_statistics([action], [action])
        return SimpleNamespace(directory="here", statistics=statistics, split=lambda name: split)

    def said(*stores, reads=False, most=5.0, episodes=0, pretrained=""):
        values = {"task": "stack", "data": {"normalization": normalization}, "eval": {"episodes": episodes}}
        values["model"] = {"pretrained": pretrained}
        trainer = SimpleNamespace(reads_instructions=reads, largest_action=most)
        return unlearnt(trainer, FinetuneConfig.from_dict(values), stores)

    assert said(store("open", ""), store("open")) == said(store("open", "close"), reads=True) == []
    assert said(store("open", task_spec("stack").instruction), reads=True, episodes=1) == []
    (told,) = said(store("open"), reads=True, episodes=1)
    assert told.endswith(f"tell the policy {task_spec('stack').instruction!r}, which no demonstration does")
    (told,) = said(store("open"), store("close"))
    assert "the data have 2 instructions, and this policy reads none" in told and "an Octo of model.pretrained" in told
    (told,) = said(store("open", "close"), pretrained="runs/small/checkpoint")  # which has no tokenizer
    assert told.endswith("it learns them as one task")
    if beyond:
        (told,) = said(store("open"), store("open", outlier=1.0))
        assert told.endswith(f"reach {beyond}; the head predicts none beyond 5")
    with pytest.raises(ConfigError, match=r"here: action 6 is 7[0-9.]* and is not normalised.* predicts -5 to 5 there"):
        said(store("open"), far := store("open", gripper=80.0))
    still = dataset_statistics([np.full((40, 6), -90.0)], [np.zeros((40, 6))])
    with pytest.raises(ConfigError, match="here: action 0 is -90 and is not normalised, as it stands still"):
        said(SimpleNamespace(directory="here", statistics=still, split=store("open").split))
    assert said(far, most=None) == []


def test_progress_of_a_stage_says_which_it_is():
    out = io.StringIO()
    with Agenda(["collect", "train"]):
        Agenda.begin("train")
        Progress("threading", 4, "demonstration", out=out).update(2, force=True)
    assert "[2/2] threading: 2/4" in out.getvalue() and Agenda.running is None


def test_progress_says_how_far_how_fast_and_how_long():
    out = io.StringIO()
    Progress("train", 10, "step", out=out).update(5, force=True)
    assert "train: 5/10 steps" in out.getvalue() and "steps/s" in out.getvalue() and "left" in out.getvalue()
    assert [duration(s) for s in (42, 185, 7800)] == ["42 s", "3 min 05 s", "2 h 10 min"]


def test_a_full_disk_ends_the_metrics_instead_of_holding_them_up(tmp_path):
    metrics = MetricsWriter(RunDirectory(tmp_path))
    metrics._lines = open("/dev/null", "w")
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        with pytest.raises(OSError, match=r"\[Errno 27\] File too large"):
            for step in range(1000):
                metrics.write(step, {f"train/{name}": 0.5 for name in range(9)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))


def test_tensorboard_reads_what_was_measured_and_that_later_steps_were_measured_again(tmp_path):
    import tensorflow as tf

    for start, step in ((0, 5), (3, 4)):
        metrics = MetricsWriter(RunDirectory(tmp_path), start_step=start)
        metrics.write(step, {"train/loss": 0.5})
        metrics.close()
        [file] = RunDirectory(tmp_path).tensorboard.iterdir()
        events = list(tf.compat.v1.train.summary_iterator(str(file)))[1:]
        file.unlink()
        assert [event.step for event in events] == [start + 1, step]
        assert events[0].session_log.status == tf.compat.v1.SessionLog.START
        assert [(value.tag, value.simple_value) for value in events[1].summary.value] == [("train/loss", 0.5)]
