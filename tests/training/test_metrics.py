"""What was measured is kept once, in metrics.jsonl, TensorBoard and the logger."""

import sys

import numpy as np
import pytest

from gap_vla.training.run_directory import DivergedError, MetricsWriter, RunDirectory, read_metrics

CONFIG = {"task": "threading", "train": {"steps": 3}}


def write(run, start, rows, logger="none"):
    metrics = MetricsWriter(run, start, logger)
    for step, values in rows.items():
        metrics.write(step, values)
    metrics.close()
    return metrics


def test_resumed_metrics_forget_the_steps_that_will_be_measured_again(tmp_path):
    run = RunDirectory(tmp_path)
    write(run, 0, {step: {"loss": step} for step in range(1, 6)})
    run.metrics.write_text(run.metrics.read_text() + '{"step": 6, "los')  # cut off by a kill
    again = write(run, 3, {4: {"loss": 40}})
    assert [row["step"] for row in again.kept] == [1, 2, 3]
    assert [(row["step"], row["loss"]) for row in read_metrics(run.metrics)] == [(1, 1), (2, 2), (3, 3), (4, 40)]


@pytest.mark.parametrize("value", [np.float32("nan"), float("-inf")])
def test_what_is_not_finite_is_refused_and_not_written(value, tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(DivergedError, match=r"val/loss .* step 5"):
        write(run, 0, {5: {"loss": 1.0, "val/loss": value}})
    assert run.metrics.read_text() == ""


def test_tensorboard_reads_what_was_measured_and_that_later_steps_were_measured_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    run = RunDirectory(tmp_path)
    write(run, 3, {4: {"train/loss": 0.5}})
    (file,) = run.tensorboard.iterdir()
    data, events = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    purged = [event for event in events if event.HasField("session_log")]
    assert [event.step for event in purged] == [4]
    values = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert values == [(4, "train/loss", 0.5)]


STAND_IN = """
calls = []
def init(**how): calls.append(("init", how))
def log(values, step): calls.append(("log", step, values))
def finish(): calls.append(("finish",))
"""


@pytest.mark.parametrize("logger", ["wandb", "trackio"])
def test_a_logger_gets_every_measurement_and_a_resumed_run_goes_on_in_its_own(logger, tmp_path, monkeypatch):
    (tmp_path / f"{logger}.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    run = RunDirectory.claim(tmp_path / "run", CONFIG, resume=False)
    for step in (0, 3):
        write(run, step, {step: {"train/loss": np.float32(0.5)}}, logger)
    calls = sys.modules.pop(logger).calls
    assert [call[0] for call in calls] == ["init", "log", "finish"] * 2
    assert calls[0] == calls[3] and calls[4] == ("log", 3, {"train/loss": 0.5})
    how = calls[0][1]
    assert (how["project"], how["name"], how["resume"]) == ("gap_vla-threading", "run", "allow")
    assert how["config"] == CONFIG
