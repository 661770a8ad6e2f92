"""What was measured is kept once, in metrics.jsonl and TensorBoard."""

from gap_vla.training.run_directory import MetricsWriter, RunDirectory, read_metrics


def write(run, start, rows):
    metrics = MetricsWriter(run, start)
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
